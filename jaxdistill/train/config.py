"""The training part of a run's config."""

from typing import Annotated

from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.train.optimizer import AdamW

_Positive = Annotated[int, Field(gt=0)]


@configclass
class TrainConfig:
    """How long to train, how a batch is made, and what is kept of it.

    Attributes:
        steps: How many steps of the optimizer.
        batch_size: How many sequences make a step.
        accumulate: In how many parts a batch is read, one after the other. More take less memory;
            the result is the same.
        chunk_rows: How many places are projected to the vocabulary together. Fewer take less
            memory; the result is the same.
        optimizer: How the gradient changes the parameters.
        log_every_steps: How often numbers are recorded.
        save_every_steps: How often a checkpoint is written, besides the one at the end.
        keep_checkpoints: How many of the latest are kept.
    """

    steps: Annotated[int, Field(gt=0, lt=2**31)] = 1000
    batch_size: Annotated[int, Field(gt=0, le=1_000_000)] = 8
    accumulate: _Positive = 1
    chunk_rows: _Positive = CHUNK_SIZE
    optimizer: AdamW = AdamW()
    log_every_steps: _Positive = 10
    save_every_steps: _Positive = 100
    keep_checkpoints: _Positive = 2
