"""Pairs: which of the teacher's places stands beside each of the student's, on the device.

With one tokenizer they are the same places. With two, groups of tokens that stand for the same text
are compared where they end: what a model says there of the last token, times how likely it found
the earlier ones. That is the chain rule, and a group of one token is the plain case of it. How
likely a boundary between words follows on a group is said one place further on.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Shaped

from jaxdistill.objectives.base import TokenDistribution
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.compaction import AlignedPositions, ModelPositions
from jaxdistill.objectives.position_values import LogitsFunction, position_values
from jaxdistill.types import Batch, HiddenSignal, VocabTables

_PREFIX_CHUNK_SIZE = 32
"""How many earlier tokens are projected at a time. They are few: most groups are of one token."""


def align_batch(
    student: HiddenSignal,
    teacher: HiddenSignal | None,
    batch: Batch,
    *,
    num_shards: int,
    with_span_prefix: bool = False,
    with_span_boundary: bool = False,
) -> AlignedPositions:
    """The places of a batch as rows: what the student makes of each beside the teacher.

    Args:
        student: What it says of every place.
        teacher: What it says of every place that it reads; None without a teacher.
        batch: Says what follows, which places count, and which belong together.
        num_shards: How many devices hold a piece of the batch: the rows of each are a group.
        merge: Whether to find out how likely the earlier tokens of a group are.
        debias: Whether to find out how likely a boundary follows on a group.
    """
    read: Any = jax.tree.map(jnp.asarray, batch)  # of whatever kind the arrays were
    in_groups = partial(split_shards, num_shards=num_shards)
    prefix = partial(_span_prefix_log_probs, in_groups) if with_span_prefix else _none
    boundary = partial(_span_boundary_log_probs, in_groups) if with_span_boundary else _none
    if teacher is None:
        rows = AlignedPositions(ModelPositions(student.hidden, read.labels), None, read.loss_mask)
    elif read.pairing is None:
        rows = _align_same_tokens(student, teacher, read, boundary)
    else:
        rows = _align_two_tokenizers(student, teacher, read, prefix, boundary)
    return jax.tree.map(in_groups, rows)


def _align_same_tokens(
    student: HiddenSignal, teacher: HiddenSignal, batch: Any, span_boundary: Any
) -> AlignedPositions:
    """The places of both, which are the same."""
    is_selected = (batch.loss_mask != 0) & _has_next_in_segment(batch)
    own, other = (
        ModelPositions(
            signal.hidden,
            batch.labels,
            span_boundary_log_probs=span_boundary(
                signal, batch.labels, _position_index(batch.tokens), is_selected
            ),
        )
        for signal in (student, teacher)
    )
    return AlignedPositions(own, other, batch.loss_mask)


def _align_two_tokenizers(
    student: HiddenSignal, teacher: HiddenSignal, batch: Any, span_prefix: Any, span_boundary: Any
) -> AlignedPositions:
    """The student's places, and beside each that ends a group the teacher's that ends it."""
    pairing = batch.pairing
    here = _position_index(batch.tokens)
    there = _teacher_span_ends(pairing.teacher_span_ids, here.shape[1])
    labels = pairing.teacher.labels
    is_followed = _has_next_in_segment(batch) & _gather(
        _has_next_in_segment(pairing.teacher), there
    )
    is_selected = (pairing.weight != 0) & is_followed
    own = ModelPositions(
        student.hidden,
        batch.labels,
        span_prefix(student, batch.labels, pairing.student_span_ids, here),
        span_boundary(student, batch.labels, here, is_selected),
    )
    other = ModelPositions(
        _gather(teacher.hidden, there),
        _gather(labels, there),
        span_prefix(teacher, labels, pairing.teacher_span_ids, there),
        span_boundary(teacher, labels, there, is_selected),
    )
    return AlignedPositions(own, other, batch.loss_mask, pairing.weight)


def _none(*_: Any) -> None:
    """In place of what no objective asks for."""


def _position_index(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)


def _has_next_in_segment(batch: Any) -> Bool[Array, "B T"]:
    """Whether the place behind reads on in the same row: that of its last token is not there."""
    return batch.segment_ids == jnp.pad(batch.segment_ids[:, 1:], ((0, 0), (0, 1)))


def gather_teacher(array: Shaped[Array, "B S *D"], alignment: Any) -> Shaped[Array, "B T *D"]:
    """What stands at the teacher's place that ends each of the student's groups; any for no group.

    Args:
        array: What there is of the teacher's places.
        pairing: The `TokenAlignment` of a batch.
    """
    return _gather(
        array, _teacher_span_ends(alignment.teacher_span_ids, alignment.student_span_ids.shape[1])
    )


def split_shards(array: Shaped[Array, "B T *D"], num_shards: int) -> Shaped[Array, "G R *D"]:
    """Places as rows, in as many groups as there are devices with a piece of the batch."""
    return jnp.reshape(array, (num_shards, -1, *array.shape[2:]))


def _teacher_span_ends(span_ids: Int[Array, "B S"], num_positions: int) -> Int[Array, "B T"]:
    """The teacher's last place of the group that ends at each of the student's; 0 for no group."""
    found = _reduce_spans(jax.ops.segment_max, _position_index(span_ids), span_ids, num_positions)
    return jnp.maximum(found, 0)  # the maximum of an empty segment is the smallest integer


def _span_prefix_log_probs(
    split: Any,
    signal: HiddenSignal,
    labels: Int[Array, "B S"],
    span_ids: Int[Array, "B S"],
    span_ends: Int[Array, "B T"],
) -> Float32[Array, "B T"]:
    """How likely the tokens but the last are of the group that ends at each place of the student's.

    Args:
        in_groups: Makes groups of rows of places.
        signal: What a model says of its own places.
        labels: What follows each.
        groups: The student's place that ends the group of each; -1 for none.
        ends: The last of the model's places of that group.
    """
    is_earlier = (span_ids >= 0) & (
        _gather(span_ends, jnp.maximum(span_ids, 0)) != _position_index(span_ids)
    )
    found = _evaluate_positions(
        _label_log_probs, split, signal, labels, is_earlier, _PREFIX_CHUNK_SIZE
    )
    return _reduce_spans(jax.ops.segment_sum, found, span_ids, span_ends.shape[1])


def _span_boundary_log_probs(
    split: Any,
    signal: HiddenSignal,
    labels: Int[Array, "B S"],
    span_ends: Int[Array, "B T"],
    is_selected: Bool[Array, "B T"],
) -> Float32[Array, "B T"]:
    """How likely a boundary follows on the group that ends at each place of the student's.

    It is said by the place behind the group's last, and 0 where it is not asked.

    Args:
        in_groups: Makes groups of rows of places.
        signal: What a model says of its own places.
        labels: What follows each.
        ends: The last of the model's places of each group.
        is_selected: Whether the group counts, and the place behind it is there.
    """
    nowhere = labels.shape[1]
    behind = jnp.where(is_selected, span_ends + 1, nowhere)
    asked = jax.vmap(lambda at: jnp.zeros(nowhere, bool).at[at].set(True, mode="drop"))(behind)
    found = _evaluate_positions(_boundary_log_probs, split, signal, labels, asked, CHUNK_SIZE)
    found = _gather(found, jnp.minimum(behind, nowhere - 1))
    return jnp.where(is_selected, found, 0)


def _evaluate_positions(
    function: LogitsFunction,
    split: Any,
    signal: HiddenSignal,
    labels: Int[Array, "B S"],
    is_selected: Bool[Array, "B S"],
    chunk_size: int,
) -> Float32[Array, "B S"]:
    """What a model answers of its own places; 0 where it is not asked."""
    hidden, about, asked = map(split, (signal.hidden, labels, is_selected))
    found = position_values(function, hidden, about, asked, signal.lm_head, chunk_size=chunk_size)
    return found.reshape(labels.shape)


def _reduce_spans(
    reduce: Any, values: Shaped[Array, "B S"], span_ids: Int[Array, "B S"], num_positions: int
) -> Shaped[Array, "B T"]:
    """`values` of each group reduced, at the student's place that ends it."""
    return jax.vmap(partial(reduce, num_segments=num_positions))(values, span_ids)


def _gather(array: Shaped[Array, "B S *D"], indices: Int[Array, "B T"]) -> Shaped[Array, "B T *D"]:
    return jax.vmap(lambda column, at: column[at])(array, indices)


def _label_log_probs(
    logits: Float32[Array, "R V"], labels: Int[Array, " R"], vocab_tables: VocabTables | None
) -> Float32[Array, " R"]:
    return TokenDistribution(logits, labels, vocab_tables=vocab_tables).label_log_probs()


def _boundary_log_probs(
    logits: Float32[Array, "R V"], labels: Int[Array, " R"], vocab_tables: VocabTables | None
) -> Float32[Array, " R"]:
    return TokenDistribution(logits, labels, vocab_tables=vocab_tables).boundary_log_probs()
