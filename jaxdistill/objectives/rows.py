"""Which rows are walked, and in which order: the live ones first, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from jaxdistill.types import pytree

_Carry = TypeVar("_Carry")
_Rows = TypeVar("_Rows")

Learned = tuple[Float[Array, "*G R D"], tuple[Array | None, Array | None]]
"""What of rows a gradient may reach: hidden states, and what is known of the rest of each group."""


@pytree
@dataclass(frozen=True)
class Side:
    """One model's half of rows: one group's, or several groups'.

    Attributes:
        hidden: What its head reads.
        labels: The word that follows.
        log_prefix: How likely it finds the earlier words of the group that `labels` ends, in nats;
            None where every group is one word.
        log_boundary: How likely it finds white space or a mark behind the group; None where nobody
            asks.
    """

    hidden: Float[Array, "*G R D"]
    labels: Int[Array, "*G R"]
    log_prefix: Float32[Array, "*G R"] | None = None
    log_boundary: Float32[Array, "*G R"] | None = None

    @property
    def learned(self) -> Learned:
        """Hidden states, prefixes and boundaries."""
        return self.hidden, (self.log_prefix, self.log_boundary)


@pytree
@dataclass(frozen=True)
class Rows:
    """Places in which two models are compared.

    Attributes:
        student: The student's half.
        teacher: The teacher's, where there is one.
        mask: How much what the student says alone counts; 0 is never looked at.
        pair_mask: How much the comparison with the teacher counts; None where both read the same
            tokens, and it is `mask`.
    """

    student: Side
    teacher: Side | None
    mask: Float[Array, "*G R"]
    pair_mask: Float[Array, "*G R"] | None = None

    def __post_init__(self):
        """Sees that all parts are of the same rows."""
        shape = self.student.labels.shape
        of_teacher = None if self.teacher is None else self.teacher.labels
        others = {"mask": self.mask, "pair_mask": self.pair_mask, "teacher": of_teacher}
        for name, array in others.items():
            if array is not None and array.shape != shape:
                raise TypeError(f"parameter '{name}' has {array.shape} rows, the student {shape}")

    @property
    def is_live(self) -> Bool[Array, "*G R"]:
        """Which rows anything is asked of."""
        if self.pair_mask is None:
            return self.mask != 0
        return (self.mask != 0) | (self.pair_mask != 0)


@pytree
@dataclass(frozen=True)
class Packed(Generic[_Rows]):
    """Rows of each group, moved together so that those which count come first.

    Attributes:
        rows: A multiple of `chunk_rows` in each group; zeros from the last live row on, so that
            whatever stood in a row that does not count cannot spoil one that does.
        ranks: Where each row of the batch went.
        num_chunks: How many chunks hold all live rows of every group.
        chunk_rows: Rows in a chunk.
    """

    rows: _Rows
    ranks: Int[Array, "G R"]
    num_chunks: Int[Array, ""]
    chunk_rows: int = field(metadata={"static": True})


def pack(rows: Rows, chunk_rows: int) -> Packed[Rows]:
    """Move the rows that are looked at to the front of their group, in their order."""
    return pack_where(rows.is_live, rows, chunk_rows)


def pack_where(is_live: Bool[Array, "G R"], rows: _Rows, chunk_rows: int) -> Packed[_Rows]:
    """As `pack`, for columns of any kind."""
    num_rows = is_live.shape[1]
    chunk_rows = min(chunk_rows, num_rows)
    places = jnp.argsort(~is_live, axis=1, stable=True)
    ranks = jnp.argsort(places, axis=1)
    places = jnp.pad(places, ((0, 0), (0, -num_rows % chunk_rows)))
    num_live = jnp.sum(is_live, axis=1, keepdims=True)
    is_filled = jax.lax.broadcasted_iota(num_live.dtype, places.shape, 1) < num_live

    def move(column: Array) -> Array:
        column = _take(column, places)
        return jnp.where(is_filled.reshape(is_filled.shape + (1,) * (column.ndim - 2)), column, 0)

    num_chunks = (jnp.max(num_live) + chunk_rows - 1) // chunk_rows
    return Packed(jax.tree.map(move, rows), ranks, num_chunks, chunk_rows)


def walk(
    packed: Packed[_Rows], visit: Callable[[_Carry, _Rows, Int[Array, ""]], _Carry], carry: _Carry
) -> _Carry:
    """`carry = visit(carry, chunk, start)` for every chunk; how many is known only at run time."""

    def body(index: Array, carry: _Carry) -> _Carry:
        start = index * packed.chunk_rows
        chunk = jax.tree.map(
            lambda column: jax.lax.dynamic_slice_in_dim(column, start, packed.chunk_rows, axis=1),
            packed.rows,
        )
        return visit(carry, chunk, start)

    return jax.lax.fori_loop(0, packed.num_chunks, body, carry)


def write(
    column: Shaped[Array, "G P ..."], values: Shaped[Array, "G C ..."], start: Int[Array, ""]
) -> Shaped[Array, "G P ..."]:
    """`column` with a chunk's `values` in the rows from `start` on."""
    values = values.astype(column.dtype)
    return jax.lax.dynamic_update_slice_in_dim(column, values, start, axis=1)


def restore(column: Shaped[Array, "G P ..."], packed: Packed[Any]) -> Shaped[Array, "G R ..."]:
    """Put rows back in the order of the batch."""
    return _take(column, packed.ranks)


def _take(column: Shaped[Array, "G P ..."], places: Int[Array, "G R"]) -> Shaped[Array, "G R ..."]:
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(column, places)
