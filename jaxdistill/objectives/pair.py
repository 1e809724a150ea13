"""Pairs: which of the teacher's places stands beside each of the student's, on the device.

With one tokenizer they are the same places. With two, groups of tokens that stand for the same text
are compared where they end: what a model says there of the last token, times how likely it found
the earlier ones. That is the chain rule, and a group of one token is the plain case of it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Shaped

from jaxdistill.objectives.ask import ask
from jaxdistill.objectives.base import RowLogits
from jaxdistill.objectives.rows import Rows, Side
from jaxdistill.types import Batch, Head, Signal

_PREFIX_ROWS = 32
"""How many earlier tokens are projected at a time. They are few: most groups are of one token."""


def pair(
    student: Signal,
    teacher: Signal | None,
    batch: Batch,
    *,
    num_groups: int,
    merge: bool = False,
) -> Rows:
    """The places of a batch as rows: what the student makes of each beside the teacher.

    Args:
        student: What it says of every place.
        teacher: What it says of every place that it reads; None without a teacher.
        batch: Says what follows, which places count, and which belong together.
        num_groups: How many devices hold a piece of the batch: the rows of each are a group.
        merge: Whether to find out how likely the earlier tokens of a group are.
    """
    read: Any = jax.tree.map(jnp.asarray, batch)  # of whatever kind the arrays were
    in_groups = partial(grouped, num_groups=num_groups)
    if teacher is not None and read.pairing is not None:
        prefix = partial(_log_prefix, in_groups) if merge else _no_prefix
        return jax.tree.map(in_groups, _across(student, teacher, read, prefix))
    beside = None if teacher is None else Side(teacher.hidden, read.labels)
    rows = Rows(Side(student.hidden, read.labels), beside, read.loss_mask)
    return jax.tree.map(in_groups, rows)


def _across(student: Signal, teacher: Signal, read: Any, prefix: Any) -> Rows:
    """The student's places, and beside each that ends a group the teacher's that ends it."""
    pairing = read.pairing
    here = jax.lax.broadcasted_iota(jnp.int32, read.tokens.shape, 1)
    there = _teacher_ends(pairing.teacher_groups, here.shape[1])
    labels = pairing.teacher.labels
    own = prefix(student, read.labels, pairing.student_groups, here)
    other = prefix(teacher, labels, pairing.teacher_groups, there)
    return Rows(
        Side(student.hidden, read.labels, own),
        Side(_take(teacher.hidden, there), _take(labels, there), other),
        read.loss_mask,
        pairing.weight,
    )


def _no_prefix(*_: Any) -> None:
    """Where tokens stand alone, nothing comes before them."""


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
    places = jax.lax.broadcasted_iota(groups.dtype, groups.shape, 1)
    found = _by_group(jax.ops.segment_max, places, groups, size)
    return jnp.maximum(found, 0)  # of no places the latest is less than any


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
    places = jax.lax.broadcasted_iota(groups.dtype, groups.shape, 1)
    is_earlier = (groups >= 0) & (_take(ends, jnp.maximum(groups, 0)) != places)
    side = Side(in_groups(signal.hidden), in_groups(labels))
    found = label_log_probs(side, in_groups(is_earlier), signal.head)
    return _by_group(jax.ops.segment_sum, found.reshape(groups.shape), groups, ends.shape[1])


def _by_group(
    reduce: Any, values: Shaped[Array, "B S"], groups: Int[Array, "B S"], size: int
) -> Shaped[Array, "B T"]:
    """`values` of each group reduced, at the student's place that ends it."""
    return jax.vmap(partial(reduce, num_segments=size))(values, groups)


def _take(array: Shaped[Array, "B S *D"], places: Int[Array, "B T"]) -> Shaped[Array, "B T *D"]:
    return jax.vmap(lambda column, at: column[at])(array, places)


def label_log_probs(
    side: Side, is_asked: Bool[Array, "G R"], head: Head, *, chunk_rows: int = _PREFIX_ROWS
) -> Float32[Array, "G R"]:
    """How likely a model finds the word that follows, in nats; 0 where it is not asked."""
    return ask(_of_label, side.hidden, side.labels, is_asked, head, chunk_rows=chunk_rows)


def _of_label(logits: Float32[Array, "R V"], labels: Int[Array, " R"]) -> Float32[Array, " R"]:
    return RowLogits(logits, labels).label_log_probs()
