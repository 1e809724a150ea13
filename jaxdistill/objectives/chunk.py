"""One chunk of rows: projected to logits, and compared a few rows after the other."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.objectives.base import PositionFunction, TokenDistribution
from jaxdistill.objectives.compaction import AlignedPositions, ModelPositions
from jaxdistill.objectives.logits import finish_logits, lm_head_vocab_size, project
from jaxdistill.types import LMHead

CHUNK_SIZE = 256
"""Enough that adding up the head's gradient is small beside forming it; few enough that a chunk's
logits are small beside that gradient."""

_CPU_SLICE_SIZE = 16
"""How many rows of a chunk a CPU compares together: few enough for its caches. Comparing a whole
chunk at once makes a step of `tests/benchmarks/ours/kd_step.py` a tenth longer."""

LMHeads = tuple[LMHead, LMHead | None]
"""The student's, and the teacher's where it is asked."""


class PositionTerm(NamedTuple):
    """A value for every row that counts: of pairs, or of the student's places."""

    function: PositionFunction
    needs_teacher: bool = False

    def position_weights(self, positions: AlignedPositions) -> Float[Array, "*G R"]:
        """How much each row counts."""
        if self.needs_teacher and positions.span_weight is not None:
            return positions.span_weight
        return positions.loss_mask


def project_chunk(
    lm_heads: LMHeads, chunk: AlignedPositions
) -> tuple[Float32[Array, "R V"], Float32[Array, "R W"] | None]:
    """What both heads make of a chunk, before bias, scale and cap: two large products."""
    student_lm_head, teacher_lm_head = lm_heads
    student = project(chunk.student.hidden, student_lm_head)
    if chunk.teacher is None or teacher_lm_head is None:
        return student, None
    return student, project(chunk.teacher.hidden, teacher_lm_head)


def map_shards(function: Callable[[Any], Any], chunk: Any) -> Any:
    """What `function` says of the rows of each group."""
    # `vmap` makes of a `lax.cond` a choice between two results that are both computed. So where
    # there is one group, on one device or with a mesh for tensors alone, it goes without.
    if len(jax.tree.leaves(chunk)[0]) > 1:
        return jax.vmap(function)(chunk)
    found = function(jax.tree.map(lambda column: column[0], chunk))
    return jax.tree.map(lambda column: column[None], found)


def map_slices(function: Callable[..., Any], chunk: Any, *raw_logits: Array | None) -> Any:
    """`compare(rows, *scores)` for a few rows after the other; results get an axis for that."""
    num_rows = len(jax.tree.leaves(chunk)[0])
    on_cpu = jax.default_backend() == "cpu"
    size = math.gcd(num_rows, _CPU_SLICE_SIZE) if on_cpu else num_rows
    pieces = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (chunk, *raw_logits))
    return jax.lax.map(lambda piece: function(*piece), pieces)


def term_values(
    terms: Sequence[PositionTerm],
    lm_heads: LMHeads,
    positions: AlignedPositions,
    student_raw_logits: Float32[Array, "R V"],
    teacher_raw_logits: Float32[Array, "R W"] | None,
) -> list[Float32[Array, " R"]]:
    """What each function says of each row that counts; 0 for the others."""
    student_lm_head, teacher_lm_head = lm_heads
    student, teacher = finish_logits(student_raw_logits, student_lm_head), None
    if (
        positions.teacher is not None
        and teacher_raw_logits is not None
        and teacher_lm_head is not None
    ):
        beside = finish_logits(teacher_raw_logits, teacher_lm_head)
        if lm_head_vocab_size(student_lm_head) == lm_head_vocab_size(teacher_lm_head):
            # Of two paddings the narrower; one that is common to both heads is never cut, for a
            # cut through a vocabulary that is sharded would move it between devices.
            width = min(student.shape[-1], beside.shape[-1])
            student, beside = student[:, :width], beside[:, :width]
        of_pairs = positions.loss_mask if positions.span_weight is None else positions.span_weight
        teacher = _token_distribution(beside, positions.teacher, teacher_lm_head, of_pairs)
    student = _token_distribution(student, positions.student, student_lm_head, positions.loss_mask)
    return [
        jnp.where(m.position_weights(positions) != 0, m.function(student, teacher), 0)
        for m in terms
    ]


def _token_distribution(
    logits: Float32[Array, "R V"],
    positions: ModelPositions,
    lm_head: LMHead,
    loss_mask: Float[Array, " R"],
) -> TokenDistribution:
    return TokenDistribution(
        logits,
        positions.labels,
        span_prefix_log_probs=positions.span_prefix_log_probs,
        vocab_tables=lm_head.vocab_tables,
        span_boundary_log_probs=positions.span_boundary_log_probs,
        output_embeddings=lm_head.matrix,
        is_scored=loss_mask != 0,
    )
