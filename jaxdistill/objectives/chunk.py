"""One chunk of rows: projected to logits, and compared a few rows after the other."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.objectives.base import RowFunction, RowLogits
from jaxdistill.objectives.rows import Rows, Side
from jaxdistill.objectives.unembed import finish, num_words, project
from jaxdistill.types import Head

CHUNK_ROWS = 256
"""Enough that adding up the head's gradient is small beside forming it; few enough that a chunk's
logits are small beside that gradient."""

_CPU_PIECE_ROWS = 16
"""How many rows of a chunk a CPU compares together: few enough for its caches. Comparing a whole
chunk at once makes a step of `tests/benchmarks/ours/kd_step.py` a tenth longer."""

Heads = tuple[Head, Head | None]
"""The student's, and the teacher's where it is asked."""


class Measure(NamedTuple):
    """A value for every row that counts: of pairs, or of the student's places."""

    function: RowFunction
    is_of_pairs: bool = False

    def weight(self, rows: Rows) -> Float[Array, "*G R"]:
        """How much each row counts."""
        if self.is_of_pairs and rows.pair_mask is not None:
            return rows.pair_mask
        return rows.mask


def scores_of(
    heads: Heads, chunk: Rows
) -> tuple[Float32[Array, "R V"], Float32[Array, "R W"] | None]:
    """What both heads make of a chunk, before bias, scale and cap: two large products."""
    student_head, teacher_head = heads
    student = project(chunk.student.hidden, student_head)
    if chunk.teacher is None or teacher_head is None:
        return student, None
    return student, project(chunk.teacher.hidden, teacher_head)


def by_group(function: Callable[[Any], Any], chunk: Any) -> Any:
    """What `function` says of the rows of each group."""
    # `vmap` makes of a `lax.cond` a choice between two results that are both computed. So where
    # there is one group, on one device or with a mesh for tensors alone, it goes without.
    if len(jax.tree.leaves(chunk)[0]) > 1:
        return jax.vmap(function)(chunk)
    found = function(jax.tree.map(lambda column: column[0], chunk))
    return jax.tree.map(lambda column: column[None], found)


def in_pieces(compare: Callable[..., Any], chunk: Any, *scores: Array | None) -> Any:
    """`compare(rows, *scores)` for a few rows after the other; results get an axis for that."""
    num_rows = len(jax.tree.leaves(chunk)[0])
    on_cpu = jax.default_backend() == "cpu"
    size = math.gcd(num_rows, _CPU_PIECE_ROWS) if on_cpu else num_rows
    pieces = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (chunk, *scores))
    return jax.lax.map(lambda piece: compare(*piece), pieces)


def values(
    measures: Sequence[Measure],
    heads: Heads,
    rows: Rows,
    student_scores: Float32[Array, "R V"],
    teacher_scores: Float32[Array, "R W"] | None,
) -> list[Float32[Array, " R"]]:
    """What each function says of each row that counts; 0 for the others."""
    student_head, teacher_head = heads
    student, teacher = finish(student_scores, student_head), None
    if rows.teacher is not None and teacher_scores is not None and teacher_head is not None:
        beside = finish(teacher_scores, teacher_head)
        if num_words(student_head) == num_words(teacher_head):
            # Of two paddings the narrower; one that is common to both heads is never cut, for a
            # cut through a vocabulary that is sharded would move it between devices.
            width = min(student.shape[-1], beside.shape[-1])
            student, beside = student[:, :width], beside[:, :width]
        of_pairs = rows.mask if rows.pair_mask is None else rows.pair_mask
        teacher = _said(beside, rows.teacher, teacher_head, of_pairs)
    student = _said(student, rows.student, student_head, rows.mask)
    return [jnp.where(m.weight(rows) != 0, m.function(student, teacher), 0) for m in measures]


def _said(
    logits: Float32[Array, "R V"], side: Side, head: Head, mask: Float[Array, " R"]
) -> RowLogits:
    return RowLogits(
        logits,
        side.labels,
        log_prefix=side.log_prefix,
        lexicon=head.lexicon,
        log_boundary=side.log_boundary,
        embeddings=head.matrix,
        counts=mask != 0,
    )
