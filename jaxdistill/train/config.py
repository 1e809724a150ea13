"""Config of training: the field `train` of a run."""

from typing import Annotated, Literal

from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.models.execution import Remat
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.train.optimizer import AdamW

_Positive = Annotated[int, Field(gt=0)]


@configclass
class TrainConfig:
    """Number of steps, batch size, optimizer, logging and checkpoints.

    Attributes:
        steps: Number of optimizer steps in the whole run.
        batch_size: Sequences per optimizer step.
        accumulate: Number of micro-batches that a batch is split into. They are computed one after
            the other and their gradients are added. More micro-batches need less memory. The
            result does not change.
        chunk_rows: Positions whose logits are in memory at once. Fewer positions need less memory.
            The result does not change.
        remat: What the backward pass computes again to save memory. `projections` stores the
            outputs of matrix products with weights and of attention, and recomputes norms,
            rotations, scores and activations. `layers` stores the input of each layer alone: the
            least memory, for a second forward pass of the student. `none` stores everything.
        balance: `grad_mag` multiplies the weights of the objectives at each step by factors that
            make their gradients equally large at the last hidden state of the student that all of
            them depend on. It costs a forward pass of both models, and a backward pass of the
            student for each objective. A single objective has nothing to balance.
        optimizer: Optimizer and learning-rate schedule.
        log_every_steps: Steps between two records of the training metrics; the last step is always
            recorded.
        save_every_steps: Steps between two checkpoints; the last step is always saved.
        keep_checkpoints: Number of checkpoints to keep, the newest ones.
    """

    steps: Annotated[int, Field(gt=0, lt=2**31)] = 1000
    batch_size: Annotated[int, Field(gt=0, le=1_000_000)] = 8
    accumulate: _Positive = 1
    chunk_rows: _Positive = CHUNK_SIZE
    remat: Remat = "projections"
    balance: Literal["grad_mag"] | None = None
    optimizer: AdamW = AdamW()
    log_every_steps: _Positive = 10
    save_every_steps: _Positive = 100
    keep_checkpoints: _Positive = 2
