"""One chunk of positions: projected to logits and compared, a slice at a time."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.objectives.base import CHUNK_SIZE as CHUNK_SIZE
from jaxdistill.objectives.base import PositionFunction, PositionObjective
from jaxdistill.objectives.logits import finish_logits, lm_head_vocab_size, project
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions
from jaxdistill.objectives.token_distribution import TokenDistribution
from jaxdistill.types import LMHead

_CPU_SLICE_SIZE = 16
"""Positions of a chunk that a CPU compares together, few enough for its caches. Whole chunks make
a step of `tests/benchmarks/ours/kd_step.py` a tenth slower."""

_Tree = TypeVar("_Tree")
_Result = TypeVar("_Result")


class LMHeads(NamedTuple):
    """LM heads of both models; `teacher` is None where no term needs it."""

    student: LMHead
    teacher: LMHead | None = None


class RawLogits(NamedTuple):
    """Raw logits of both models, before bias, scale and cap."""

    student: Float32[Array, "R V"]
    teacher: Float32[Array, "R W"] | None = None


class ChunkTerm(NamedTuple):
    """A function of the distributions at each position, and the objective that it belongs to."""

    function: PositionFunction
    objective: PositionObjective | None = None

    def position_weights(self, positions: AlignedPositions) -> Float[Array, "*G R"]:
        """Weight of the term at each position."""
        if self.objective is None or not self.objective.needs_teacher:
            return positions.loss_mask
        if self.objective.averages_examples and positions.example_mean_weight is not None:
            return positions.example_mean_weight
        return positions.teacher_weight


def project_chunk(lm_heads: LMHeads, chunk: AlignedPositions) -> RawLogits:
    """Compute the raw logits of both models: two large matrix products."""
    student = project(chunk.student.hidden, lm_heads.student)
    if chunk.teacher is None or lm_heads.teacher is None:
        return RawLogits(student)
    return RawLogits(student, project(chunk.teacher.hidden, lm_heads.teacher))


def map_shards(function: Callable[[_Tree], _Result], columns: _Tree) -> _Result:
    """Map `function` over the shards, the first axis of all arrays."""
    # `vmap` turns a `lax.cond` into a selection that computes both branches. So a single shard, on
    # one device or on a mesh for tensors alone, goes without it.
    if len(jax.tree.leaves(columns)[0]) > 1:
        return jax.vmap(function)(columns)
    result = function(jax.tree.map(lambda column: column[0], columns))
    return jax.tree.map(lambda column: column[None], result)


def flatten_slices(results: _Result) -> _Result:
    """Join the values of positions that were computed by slice."""
    return jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), results)


def map_slices(
    function: Callable[..., Any], *columns: Any, join: Callable[[Any], _Result] = flatten_slices
) -> _Result:
    """Map `function` over slices of a chunk, in sequence.

    Only programs for CPUs have several slices; `join` takes results with a first axis for them.
    """
    num_positions = len(jax.tree.leaves(columns)[0])

    def compute(*columns: Any, size: int) -> _Result:
        slices = jax.tree.map(lambda column: column.reshape(-1, size, *column.shape[1:]), columns)
        return join(jax.lax.map(lambda one_slice: function(*one_slice), slices))

    whole = partial(compute, size=num_positions)
    size = math.gcd(num_positions, _CPU_SLICE_SIZE)
    if size == num_positions:
        return whole(*columns)
    return jax.lax.platform_dependent(*columns, cpu=partial(compute, size=size), default=whole)


def zeros_per_shard(tree: _Tree, num_shards: int) -> _Tree:
    """Create float32 zeros like the arrays of `tree`, with a first axis for shards."""
    return jax.tree.map(lambda array: jnp.zeros((num_shards, *array.shape), jnp.float32), tree)


def sum_shards(totals: _Tree, like: _Tree) -> _Tree:
    """Sum over the shards, in the dtypes of `like`."""
    return jax.tree.map(lambda total, a: total.sum(axis=0).astype(a.dtype), totals, like)


def term_values(
    terms: Sequence[ChunkTerm],
    lm_heads: LMHeads,
    positions: AlignedPositions,
    raw_logits: RawLogits,
) -> list[Float32[Array, " R"]]:
    """Compute the values of each term; 0 at positions where its weight is 0."""
    logits, teacher = finish_logits(raw_logits.student, lm_heads.student), None
    if positions.teacher is not None and lm_heads.teacher is not None:
        assert raw_logits.teacher is not None, "`project_chunk` projects what the teacher has"
        teacher_logits = finish_logits(raw_logits.teacher, lm_heads.teacher)
        if lm_head_vocab_size(lm_heads.student) == lm_head_vocab_size(lm_heads.teacher):
            # The narrower padding of two. Padding that both LM heads share stays, for slicing a
            # sharded vocabulary would move it between devices.
            width = min(logits.shape[-1], teacher_logits.shape[-1])
            logits, teacher_logits = logits[:, :width], teacher_logits[:, :width]
        teacher = _token_distribution(
            teacher_logits, positions.teacher, lm_heads.teacher, positions.teacher_weight
        )
    student = _token_distribution(logits, positions.student, lm_heads.student, positions.loss_mask)
    return [
        jnp.where(term.position_weights(positions) != 0, term.function(student, teacher), 0)
        for term in terms
    ]


def _token_distribution(
    logits: Float32[Array, "R V"],
    positions: ModelPositions,
    lm_head: LMHead,
    weights: Float[Array, " R"],
) -> TokenDistribution:
    return TokenDistribution(
        logits,
        positions.labels,
        span_prefix_log_probs=positions.span_context.prefix_log_probs,
        vocab_tables=lm_head.vocab_tables,
        span_boundary_log_probs=positions.span_context.boundary_log_probs,
        output_embeddings=lm_head.matrix,
        is_scored=weights != 0,
    )
