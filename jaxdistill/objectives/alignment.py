"""Alignment of a batch on the device: the teacher's position beside each of the student's.

With one tokenizer both have the same positions. With two, a span of the student's tokens is
compared with the span of the teacher's tokens that covers the same bytes, where the spans end: the
log-probability of the last token there, plus that of the earlier tokens. By the chain rule their
sum is that of the span; a span of one token is the plain case. The log-probability of a word
boundary after a span comes from the position that follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Shaped

from jaxdistill.objectives.base import PositionObjective
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.position_values import DistributionFunction, position_values
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions, SpanContext
from jaxdistill.objectives.token_distribution import TokenDistribution
from jaxdistill.objectives.weights import as_jax_arrays, example_mean_weight, teacher_weight
from jaxdistill.types import Batch, HiddenSignal, TokenAlignment

_PREFIX_CHUNK_SIZE = 32
"""Earlier tokens of spans that are projected at a time; most spans have none."""


def align_batch(
    student: HiddenSignal,
    teacher: HiddenSignal | None,
    batch: Batch,
    *,
    num_shards: int,
    objectives: Sequence[PositionObjective] = (),
) -> AlignedPositions:
    """Pair the student's positions with the teacher's, grouped by shard.

    Args:
        student: Signal of the student for `batch`.
        teacher: Signal of the teacher for `teacher_batch(batch)`; None without a teacher.
        batch: Labels, loss mask and token alignment.
        num_shards: Number of devices that hold a part of the batch.
        objectives: Objectives that decide which parts of the positions are computed.
    """
    read = as_jax_arrays(batch)
    if teacher is None:
        own = ModelPositions(student.hidden, read.labels)
        positions = AlignedPositions(own, None, read.loss_mask)
    else:
        own, other, span_weight = _align_spans(student, teacher, read, num_shards)
        with_span_prefix = any(one.needs_span_prefix for one in objectives)
        with_span_boundary = any("word_boundaries" in one.vocab_needs for one in objectives)
        averages_examples = any(one.averages_examples for one in objectives)
        is_followed = (teacher_weight(read) != 0) & own.has_next & other.gather(other.has_next)
        contexts = [
            SpanContext(
                one.prefix_log_probs() if with_span_prefix else None,
                one.boundary_log_probs(is_followed) if with_span_boundary else None,
            )
            for one in (own, other)
        ]
        positions = AlignedPositions(
            ModelPositions(student.hidden, own.labels, contexts[0]),
            ModelPositions(other.gather(teacher.hidden), other.gather(other.labels), contexts[1]),
            read.loss_mask,
            span_weight,
            example_mean_weight(read) if averages_examples and read.alignment is None else None,
        )
    return jax.tree.map(partial(split_shards, num_shards=num_shards), positions)


def gather_teacher(
    array: Shaped[Array, "B S *D"], alignment: TokenAlignment
) -> Shaped[Array, "B T *D"]:
    """Gather the teacher's values where the span of each student position ends; any for no span."""
    span_ids = jnp.asarray(alignment.teacher_span_ids)
    return gather(array, teacher_span_ends(span_ids, alignment.student_span_ids.shape[1]))


def split_shards(array: Shaped[Array, "B T *D"], num_shards: int) -> Shaped[Array, "G R *D"]:
    """Flatten the positions of each shard."""
    return jnp.reshape(array, (num_shards, -1, *array.shape[2:]))


@dataclass(frozen=True)
class _ModelSpans:
    """Spans of a batch in the tokens of one model.

    Attributes:
        has_next: Whether the next position is of the same segment.
        span_ids: Span of each label; None where both models read the same tokens.
        span_ends: The model's last position of the span at each student position.
    """

    signal: HiddenSignal
    labels: Int[Array, "B S"]
    has_next: Bool[Array, "B S"]
    span_ids: Int[Array, "B S"] | None
    span_ends: Int[Array, "B T"]
    num_shards: int

    def gather(self, array: Shaped[Array, "B S *D"]) -> Shaped[Array, "B T *D"]:
        """Gather values at the ends of spans."""
        return array if self.span_ids is None else gather(array, self.span_ends)

    def prefix_log_probs(self) -> Float32[Array, "B T"] | None:
        """Log-probability of all tokens of each span but the last; None for single tokens."""
        if self.span_ids is None:
            return None
        span_ends = gather(self.span_ends, jnp.maximum(self.span_ids, 0))
        is_earlier = (self.span_ids >= 0) & (span_ends != _position_index(self.span_ids))
        values = self._evaluate(TokenDistribution.label_log_probs, is_earlier, _PREFIX_CHUNK_SIZE)
        add = partial(jax.ops.segment_sum, num_segments=self.span_ends.shape[1])
        return jax.vmap(add)(values, self.span_ids)

    def boundary_log_probs(self, is_followed: Bool[Array, "B T"]) -> Float32[Array, "B T"]:
        """Log-probability of a word boundary after each span; 0 where not `is_followed`."""
        length = self.labels.shape[1]
        following = jnp.where(is_followed, self.span_ends + 1, length)
        is_selected = jax.vmap(lambda i: jnp.zeros(length, bool).at[i].set(True, mode="drop"))(
            following
        )
        values = self._evaluate(TokenDistribution.boundary_log_probs, is_selected, CHUNK_SIZE)
        values = gather(values, jnp.minimum(following, length - 1))
        return jnp.where(is_followed, values, 0)

    def _evaluate(
        self, function: DistributionFunction, is_selected: Bool[Array, "B S"], chunk_size: int
    ) -> Float32[Array, "B S"]:
        """Compute `function` of the distributions at the model's own positions."""
        columns = (
            split_shards(array, self.num_shards)
            for array in (self.signal.hidden, self.labels, is_selected)
        )
        values = position_values(function, chunk_size, *columns, self.signal.lm_head)
        return values.reshape(self.labels.shape)


def _align_spans(
    student: HiddenSignal, teacher: HiddenSignal, batch: Any, num_shards: int
) -> tuple[_ModelSpans, _ModelSpans, Float32[Array, "B T"] | None]:
    """Return the spans of student and teacher, and their weight."""
    alignment, index = batch.alignment, _position_index(batch.tokens)
    has_next = has_next_in_segment(batch.segment_ids)
    own = _ModelSpans(student, batch.labels, has_next, None, index, num_shards)
    if alignment is None:
        return own, replace(own, signal=teacher), None
    read, span_ids = alignment.teacher, alignment.teacher_span_ids
    has_next = has_next_in_segment(read.segment_ids)
    span_ends = teacher_span_ends(span_ids, index.shape[1])
    other = _ModelSpans(teacher, read.labels, has_next, span_ids, span_ends, num_shards)
    return replace(own, span_ids=alignment.student_span_ids), other, alignment.span_weight


def _position_index(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)


def has_next_in_segment(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """Return True where the next position is of the same segment."""
    return segment_ids == jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)))


def teacher_span_ends(span_ids: Int[Array, "B S"], num_positions: int) -> Int[Array, "B T"]:
    """Return the teacher's last position of the span at each student position; 0 for no span."""
    last = partial(jax.ops.segment_max, num_segments=num_positions)
    ends = jax.vmap(last)(_position_index(span_ids), span_ids)
    return jnp.maximum(ends, 0)  # the maximum of an empty segment is the smallest integer


def gather(array: Shaped[Array, "B S *D"], indices: Int[Array, "B T"]) -> Shaped[Array, "B T *D"]:
    """Gather the values at an index of each position."""
    return jax.vmap(lambda column, i: column[i])(array, indices)
