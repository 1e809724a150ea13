"""The training part of a run's config."""

from typing import Annotated

from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.objectives.chunk import CHUNK_ROWS
from jaxdistill.train.optimizer import AdamW

_Positive = Annotated[int, Field(gt=0)]


@configclass
class TrainConfig:
    """How long to train, how a batch is made, and what is kept of it.

    `batch_size` sequences make a step, read in `accumulate` micro-batches one after the other;
    `chunk_rows` is how many places are projected together. Both trade memory for speed, and
    neither changes the result.
    """

    steps: Annotated[int, Field(gt=0, lt=2**31)] = 1000
    batch_size: Annotated[int, Field(gt=0, le=1_000_000)] = 8
    accumulate: _Positive = 1
    chunk_rows: _Positive = CHUNK_ROWS
    optimizer: AdamW = AdamW()
    log_every_steps: _Positive = 10
    save_every_steps: _Positive = 100
    keep_checkpoints: _Positive = 2
