"""Positions at which the inner layers of two models are compared."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from jaxdistill.objectives.alignment import gather, has_next_in_segment, teacher_span_ends
from jaxdistill.objectives.weights import as_jax_arrays
from jaxdistill.types import Batch

Positions = Literal["completion", "all", "last"]
"""Positions to compare: those whose labels are learned, all of the text, or the last of each
example."""


@dataclass(frozen=True)
class TappedPositions:
    """The position of each model beside each position of the student's batch.

    With one tokenizer both are the position itself. With two, a position whose label ends a span is
    compared where both models have read that span: at the positions after it.

    Attributes:
        weight: Weight of the comparison; 0 for none.
        student_index: Position of the student; None for the position itself.
        teacher_index: Position of the teacher.
        student_spans: Span of the token that the student reads at each position; None with one
            tokenizer, -1 for none.
        teacher_spans: The same of the teacher.
    """

    weight: Float32[Array, "B T"]
    student_index: Int[Array, "B T"] | None = None
    teacher_index: Int[Array, "B T"] | None = None
    student_spans: Int[Array, "B T"] | None = None
    teacher_spans: Int[Array, "B S"] | None = None

    @classmethod
    def from_batch(cls, batch: Batch, positions: Positions) -> "TappedPositions":
        """Return the positions of a batch."""
        read = as_jax_arrays(batch)
        if read.alignment is None:
            is_text = (read.segment_ids > 0).astype(jnp.float32)
            weight = is_text if positions == "all" else read.loss_mask
            return cls(_last_of_segments(weight, read) if positions == "last" else weight)
        alignment, teacher = read.alignment, read.alignment.teacher
        ends = teacher_span_ends(alignment.teacher_span_ids, read.tokens.shape[1])
        is_followed = has_next_in_segment(read.segment_ids) & gather(
            has_next_in_segment(teacher.segment_ids), ends
        )
        weight = (is_followed & (alignment.span_weight != 0)).astype(jnp.float32)
        index = jax.lax.broadcasted_iota(jnp.int32, read.tokens.shape, 1)
        return cls(
            weight=_last_of_segments(weight, read) if positions == "last" else weight,
            student_index=jnp.minimum(index + 1, read.tokens.shape[1] - 1),
            teacher_index=jnp.minimum(ends + 1, teacher.tokens.shape[1] - 1),
            student_spans=_spans_of_tokens(alignment.student_span_ids, read.segment_ids),
            teacher_spans=_spans_of_tokens(alignment.teacher_span_ids, teacher.segment_ids),
        )

    def of_student(self, array: Shaped[Array, "B T *D"]) -> Shaped[Array, "B T *D"]:
        """Return the student's values at the compared positions."""
        return array if self.student_index is None else gather(array, self.student_index)

    def of_teacher(self, array: Shaped[Array, "B S *D"]) -> Shaped[Array, "B T *D"]:
        """Return the teacher's values at the compared positions."""
        return array if self.teacher_index is None else gather(array, self.teacher_index)

    def student_keys(self, maps: Float[Array, "B H T T"]) -> Float[Array, "B H T X"]:
        """Sum attention to the tokens of each span, at the compared positions."""
        return self._sum_keys(maps, self.student_spans, self.student_index)

    def teacher_keys(self, maps: Float[Array, "B H S S"]) -> Float[Array, "B H T X"]:
        """Sum attention to the tokens of each span, at the compared positions."""
        return self._sum_keys(maps, self.teacher_spans, self.teacher_index)

    def _sum_keys(
        self,
        maps: Float[Array, "B H S S"],
        spans: Int[Array, "B S"] | None,
        index: Int[Array, "B T"] | None,
    ) -> Float[Array, "B H T X"]:
        """Gather rows and sum columns; a last column has the tokens in no span."""
        if spans is None or index is None:
            return maps
        num_positions = index.shape[1]
        columns = jnp.where(spans < 0, num_positions, spans)
        add = partial(jax.ops.segment_sum, num_segments=num_positions + 1)

        def of_sequence(one: Array, columns: Array, index: Array) -> Array:
            rows = one[:, index]
            return jnp.moveaxis(add(jnp.moveaxis(rows, -1, 0), columns), 0, -1)

        return jax.vmap(of_sequence)(maps, columns, index)


def _last_of_segments(weight: Float32[Array, "B T"], batch: Batch) -> Float32[Array, "B T"]:
    """Return 1 at the last position of each segment whose weight is not 0."""
    index = jax.lax.broadcasted_iota(jnp.int32, weight.shape, 1)
    scored = jnp.where(weight != 0, index, -1)
    segment_ids = jnp.asarray(batch.segment_ids)
    last = jax.vmap(partial(jax.ops.segment_max, num_segments=weight.shape[1] + 1))
    return (gather(last(scored, segment_ids), segment_ids) == scored).astype(jnp.float32) * (
        weight != 0
    )


def _spans_of_tokens(
    span_ids: Int[Array, "B S"], segment_ids: Int[Array, "B S"]
) -> Int[Array, "B S"]:
    """Return the span of the token at each position; spans are given by labels, one before."""
    shifted = jnp.pad(span_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    is_first: Bool[Array, "B S"] = jnp.diff(segment_ids, axis=1, prepend=-1) != 0
    return jnp.where(is_first, -1, shifted)
