"""Which rows are walked, and in which order: the live ones first, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from jaxdistill.types import pytree

_Carry = TypeVar("_Carry")
_Columns = TypeVar("_Columns")

DifferentiableInputs = tuple[Float[Array, "*G R D"], tuple[Array | None, Array | None]]
"""What of rows a gradient may reach: hidden states, and what is known of the rest of each group."""


@pytree
@dataclass(frozen=True)
class ModelPositions:
    """One model's half of rows: one group's, or several groups'.

    Attributes:
        hidden: What its head reads.
        labels: The word that follows.
        span_prefix_log_probs: How likely it finds the earlier words of the group that `labels` ends, in nats;
            None where every group is one word.
        span_boundary_log_probs: How likely it finds white space or a mark behind the group; None where nobody
            asks.
    """

    hidden: Float[Array, "*G R D"]
    labels: Int[Array, "*G R"]
    span_prefix_log_probs: Float32[Array, "*G R"] | None = None
    span_boundary_log_probs: Float32[Array, "*G R"] | None = None

    @property
    def differentiable(self) -> DifferentiableInputs:
        """Hidden states, prefixes and boundaries."""
        return self.hidden, (self.span_prefix_log_probs, self.span_boundary_log_probs)


@pytree
@dataclass(frozen=True)
class AlignedPositions:
    """Places in which two models are compared.

    Attributes:
        student: The student's half.
        teacher: The teacher's, where there is one.
        mask: How much what the student says alone counts; 0 is never looked at.
        span_weight: How much the comparison with the teacher counts; None where both read the same
            tokens, and it is `mask`.
    """

    student: ModelPositions
    teacher: ModelPositions | None
    loss_mask: Float[Array, "*G R"]
    span_weight: Float[Array, "*G R"] | None = None

    def __post_init__(self):
        """Sees that all parts are of the same rows."""
        shape = self.student.labels.shape
        of_teacher = None if self.teacher is None else self.teacher.labels
        others = {"mask": self.loss_mask, "span_weight": self.span_weight, "teacher": of_teacher}
        for name, array in others.items():
            if array is not None and array.shape != shape:
                raise TypeError(f"parameter '{name}' has {array.shape} rows, the student {shape}")

    @property
    def is_scored(self) -> Bool[Array, "*G R"]:
        """Which rows anything is asked of."""
        if self.span_weight is None:
            return self.loss_mask != 0
        return (self.loss_mask != 0) | (self.span_weight != 0)


@pytree
@dataclass(frozen=True)
class Compacted(Generic[_Columns]):
    """Rows of each group, moved together so that those which count come first.

    Attributes:
        rows: A multiple of `chunk_rows` in each group; zeros from the last live row on, so that
            whatever stood in a row that does not count cannot spoil one that does.
        ranks: Where each row of the batch went.
        num_chunks: How many chunks hold all live rows of every group.
        chunk_rows: Rows in a chunk.
    """

    columns: _Columns
    compacted_index: Int[Array, "G R"]
    num_chunks: Int[Array, ""]
    chunk_size: int = field(metadata={"static": True})


def compact_positions(positions: AlignedPositions, chunk_size: int) -> Compacted[AlignedPositions]:
    """Move the rows that are looked at to the front of their group, in their order."""
    return compact(positions.is_scored, positions, chunk_size)


def compact(
    is_scored: Bool[Array, "G R"], columns: _Columns, chunk_size: int
) -> Compacted[_Columns]:
    """As `pack`, for columns of any kind."""
    num_rows = is_scored.shape[1]
    chunk_size = min(chunk_size, num_rows)
    places = jnp.argsort(~is_scored, axis=1, stable=True)
    ranks = jnp.argsort(places, axis=1)
    places = jnp.pad(places, ((0, 0), (0, -num_rows % chunk_size)))
    num_live = jnp.sum(is_scored, axis=1, keepdims=True)
    is_filled = jax.lax.broadcasted_iota(num_live.dtype, places.shape, 1) < num_live

    def move(column: Array) -> Array:
        column = _gather(column, places)
        return jnp.where(is_filled.reshape(is_filled.shape + (1,) * (column.ndim - 2)), column, 0)

    num_chunks = (jnp.max(num_live) + chunk_size - 1) // chunk_size
    return Compacted(jax.tree.map(move, columns), ranks, num_chunks, chunk_size)


def fold_chunks(
    compacted: Compacted[_Columns],
    update: Callable[[_Carry, _Columns, Int[Array, ""]], _Carry],
    carry: _Carry,
) -> _Carry:
    """`carry = visit(carry, chunk, start)` for every chunk; how many is known only at run time."""

    def body(index: Array, carry: _Carry) -> _Carry:
        start = index * compacted.chunk_size
        chunk = jax.tree.map(
            lambda column: jax.lax.dynamic_slice_in_dim(
                column, start, compacted.chunk_size, axis=1
            ),
            compacted.columns,
        )
        return update(carry, chunk, start)

    return jax.lax.fori_loop(0, compacted.num_chunks, body, carry)


def write_chunk(
    column: Shaped[Array, "G P ..."], values: Shaped[Array, "G C ..."], start: Int[Array, ""]
) -> Shaped[Array, "G P ..."]:
    """`column` with a chunk's `values` in the rows from `start` on."""
    values = values.astype(column.dtype)
    return jax.lax.dynamic_update_slice_in_dim(column, values, start, axis=1)


def scatter(
    column: Shaped[Array, "G P ..."], compacted: Compacted[Any]
) -> Shaped[Array, "G R ..."]:
    """Put rows back in the order of the batch."""
    return _gather(column, compacted.compacted_index)


def _gather(
    column: Shaped[Array, "G P ..."], indices: Int[Array, "G R"]
) -> Shaped[Array, "G R ..."]:
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(column, indices)
