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

from jaxdistill.objectives.ask import Question, ask
from jaxdistill.objectives.base import RowLogits
from jaxdistill.objectives.chunk import CHUNK_ROWS
from jaxdistill.objectives.rows import Rows, Side
from jaxdistill.types import Batch, Lexicon, Signal

_PREFIX_ROWS = 32
"""How many earlier tokens are projected at a time. They are few: most groups are of one token."""


def pair(
    student: Signal,
    teacher: Signal | None,
    batch: Batch,
    *,
    num_groups: int,
    merge: bool = False,
    debias: bool = False,
) -> Rows:
    """The places of a batch as rows: what the student makes of each beside the teacher.

    Args:
        student: What it says of every place.
        teacher: What it says of every place that it reads; None without a teacher.
        batch: Says what follows, which places count, and which belong together.
        num_groups: How many devices hold a piece of the batch: the rows of each are a group.
        merge: Whether to find out how likely the earlier tokens of a group are.
        debias: Whether to find out how likely a boundary follows on a group.
    """
    read: Any = jax.tree.map(jnp.asarray, batch)  # of whatever kind the arrays were
    in_groups = partial(grouped, num_groups=num_groups)
    prefix = partial(_log_prefix, in_groups) if merge else _unasked
    boundary = partial(_log_boundary, in_groups) if debias else _unasked
    if teacher is None:
        rows = Rows(Side(student.hidden, read.labels), None, read.loss_mask)
    elif read.pairing is None:
        rows = _beside(student, teacher, read, boundary)
    else:
        rows = _across(student, teacher, read, prefix, boundary)
    return jax.tree.map(in_groups, rows)


def _beside(student: Signal, teacher: Signal, read: Any, boundary: Any) -> Rows:
    """The places of both, which are the same."""
    is_asked = (read.loss_mask != 0) & _is_followed(read)
    own, other = (
        Side(
            signal.hidden,
            read.labels,
            log_boundary=boundary(signal, read.labels, _places(read.tokens), is_asked),
        )
        for signal in (student, teacher)
    )
    return Rows(own, other, read.loss_mask)


def _across(student: Signal, teacher: Signal, read: Any, prefix: Any, boundary: Any) -> Rows:
    """The student's places, and beside each that ends a group the teacher's that ends it."""
    pairing = read.pairing
    here = _places(read.tokens)
    there = _teacher_ends(pairing.teacher_groups, here.shape[1])
    labels = pairing.teacher.labels
    is_followed = _is_followed(read) & _take(_is_followed(pairing.teacher), there)
    is_asked = (pairing.weight != 0) & is_followed
    own = Side(
        student.hidden,
        read.labels,
        prefix(student, read.labels, pairing.student_groups, here),
        boundary(student, read.labels, here, is_asked),
    )
    other = Side(
        _take(teacher.hidden, there),
        _take(labels, there),
        prefix(teacher, labels, pairing.teacher_groups, there),
        boundary(teacher, labels, there, is_asked),
    )
    return Rows(own, other, read.loss_mask, pairing.weight)


def _unasked(*_: Any) -> None:
    """In place of what no objective asks for."""


def _places(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)


def _is_followed(read: Any) -> Bool[Array, "B T"]:
    """Whether the place behind reads on in the same row: that of its last token is not there."""
    return read.segment_ids == jnp.pad(read.segment_ids[:, 1:], ((0, 0), (0, 1)))


def beside(array: Shaped[Array, "B S *D"], pairing: Any) -> Shaped[Array, "B T *D"]:
    """What stands at the teacher's place that ends each of the student's groups; any for no group.

    Args:
        array: What there is of the teacher's places.
        pairing: The `Pairing` of a batch.
    """
    return _take(array, _teacher_ends(pairing.teacher_groups, pairing.student_groups.shape[1]))


def grouped(array: Shaped[Array, "B T *D"], num_groups: int) -> Shaped[Array, "G R *D"]:
    """Places as rows, in as many groups as there are devices with a piece of the batch."""
    return jnp.reshape(array, (num_groups, -1, *array.shape[2:]))


def _teacher_ends(groups: Int[Array, "B S"], size: int) -> Int[Array, "B T"]:
    """The teacher's last place of the group that ends at each of the student's; 0 for no group."""
    found = _by_group(jax.ops.segment_max, _places(groups), groups, size)
    return jnp.maximum(found, 0)  # the maximum of an empty segment is the smallest integer


def _log_prefix(
    in_groups: Any,
    signal: Signal,
    labels: Int[Array, "B S"],
    groups: Int[Array, "B S"],
    ends: Int[Array, "B T"],
) -> Float32[Array, "B T"]:
    """How likely the tokens but the last are of the group that ends at each place of the student's.

    Args:
        in_groups: Makes groups of rows of places.
        signal: What a model says of its own places.
        labels: What follows each.
        groups: The student's place that ends the group of each; -1 for none.
        ends: The last of the model's places of that group.
    """
    is_earlier = (groups >= 0) & (_take(ends, jnp.maximum(groups, 0)) != _places(groups))
    found = _answers(_of_label, in_groups, signal, labels, is_earlier, _PREFIX_ROWS)
    return _by_group(jax.ops.segment_sum, found, groups, ends.shape[1])


def _log_boundary(
    in_groups: Any,
    signal: Signal,
    labels: Int[Array, "B S"],
    ends: Int[Array, "B T"],
    is_asked: Bool[Array, "B T"],
) -> Float32[Array, "B T"]:
    """How likely a boundary follows on the group that ends at each place of the student's.

    It is said by the place behind the group's last, and 0 where it is not asked.

    Args:
        in_groups: Makes groups of rows of places.
        signal: What a model says of its own places.
        labels: What follows each.
        ends: The last of the model's places of each group.
        is_asked: Whether the group counts, and the place behind it is there.
    """
    nowhere = labels.shape[1]
    behind = jnp.where(is_asked, ends + 1, nowhere)
    asked = jax.vmap(lambda at: jnp.zeros(nowhere, bool).at[at].set(True, mode="drop"))(behind)
    found = _answers(_of_boundary, in_groups, signal, labels, asked, CHUNK_ROWS)
    found = _take(found, jnp.minimum(behind, nowhere - 1))
    return jnp.where(is_asked, found, 0)


def _answers(
    question: Question,
    in_groups: Any,
    signal: Signal,
    labels: Int[Array, "B S"],
    is_asked: Bool[Array, "B S"],
    chunk_rows: int,
) -> Float32[Array, "B S"]:
    """What a model answers of its own places; 0 where it is not asked."""
    hidden, about, asked = map(in_groups, (signal.hidden, labels, is_asked))
    found = ask(question, hidden, about, asked, signal.head, chunk_rows=chunk_rows)
    return found.reshape(labels.shape)


def _by_group(
    reduce: Any, values: Shaped[Array, "B S"], groups: Int[Array, "B S"], size: int
) -> Shaped[Array, "B T"]:
    """`values` of each group reduced, at the student's place that ends it."""
    return jax.vmap(partial(reduce, num_segments=size))(values, groups)


def _take(array: Shaped[Array, "B S *D"], places: Int[Array, "B T"]) -> Shaped[Array, "B T *D"]:
    return jax.vmap(lambda column, at: column[at])(array, places)


def _of_label(
    logits: Float32[Array, "R V"], labels: Int[Array, " R"], lexicon: Lexicon | None
) -> Float32[Array, " R"]:
    return RowLogits(logits, labels, lexicon=lexicon).label_log_probs()


def _of_boundary(
    logits: Float32[Array, "R V"], labels: Int[Array, " R"], lexicon: Lexicon | None
) -> Float32[Array, " R"]:
    return RowLogits(logits, labels, lexicon=lexicon).boundary_log_probs()
