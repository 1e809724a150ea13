"""The vocabulary engine: loss terms of two signals, without forming all logits at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.alignment import align_batch
from jaxdistill.objectives.base import PositionObjective
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.chunked_loss import weighted_loss
from jaxdistill.types import Batch, HiddenSignal


@dataclass(frozen=True)
class VocabEngine:
    """Sums of position objectives over a batch.

    Gradients reach the signal that is passed as the student's, never the teacher's.

    Attributes:
        num_shards: Number of devices that hold a part of the batch.
        chunk_size: Positions of each shard that are projected at a time.
    """

    num_shards: int = 1
    chunk_size: int = CHUNK_SIZE

    def weighted_loss(
        self,
        objectives: Sequence[PositionObjective],
        coefficients: Float32[Array, " objectives"],
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
    ) -> tuple[Float32[Array, ""], Float32[Array, " terms"]]:
        """Align a batch and compute `chunked_loss.weighted_loss` of its positions."""
        positions = align_batch(
            student, teacher, batch, num_shards=self.num_shards, objectives=objectives
        )
        lm_heads = student.lm_head, None if teacher is None else teacher.lm_head
        return weighted_loss(
            tuple(objectives), coefficients, positions, *lm_heads, chunk_size=self.chunk_size
        )

    def sum(
        self,
        objective: PositionObjective,
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
    ) -> Float32[Array, ""]:
        """Compute the sum of one objective's values over the scored positions of a batch."""
        return self.weighted_loss((objective,), jnp.ones(1), student, teacher, batch)[0]
