"""Which rows are walked, and in which order: the live ones first, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

_Carry = TypeVar("_Carry")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Rows of each group, moved together so that those which count come first.

    Attributes:
        columns: What belongs to a row, `[G, P, ...]` each; zeros from the last live row on, so
            that whatever stood in a row that does not count cannot spoil one that does.
        ranks: Where each row of the batch went.
        num_chunks: How many chunks hold all live rows of every group.
        chunk_rows: Rows in a chunk; divides `P`.
    """

    columns: PyTree[Shaped[Array, "G P ..."]]
    ranks: Int[Array, "G R"]
    num_chunks: Int[Array, ""]
    chunk_rows: int = field(metadata={"static": True})


def pack(
    columns: PyTree[Shaped[Array, "G R ..."]], mask: Float[Array, "G R"], chunk_rows: int
) -> Packed:
    """Move the rows whose mask is not 0 to the front of their group, in their order."""
    num_rows = mask.shape[1]
    chunk_rows = min(chunk_rows, num_rows)
    places = jnp.argsort(mask == 0, axis=1, stable=True)
    ranks = jnp.argsort(places, axis=1)
    places = jnp.pad(places, ((0, 0), (0, -num_rows % chunk_rows)))
    num_live = jnp.sum(mask != 0, axis=1, keepdims=True)
    is_live = jax.lax.broadcasted_iota(num_live.dtype, places.shape, 1) < num_live

    def move(column: Array) -> Array:
        moved = _take(column, places)
        return jnp.where(is_live.reshape(is_live.shape + (1,) * (column.ndim - 2)), moved, 0)

    num_chunks = (jnp.max(num_live) + chunk_rows - 1) // chunk_rows
    return Packed(jax.tree.map(move, columns), ranks, num_chunks, chunk_rows)


def walk(
    packed: Packed, visit: Callable[[_Carry, Any, Int[Array, ""]], _Carry], carry: _Carry
) -> _Carry:
    """`carry = visit(carry, chunk, start)` for every chunk; how many is known only at run time."""

    def body(index: Array, carry: _Carry) -> _Carry:
        start = index * packed.chunk_rows
        chunk = jax.tree.map(
            lambda column: jax.lax.dynamic_slice_in_dim(column, start, packed.chunk_rows, axis=1),
            packed.columns,
        )
        return visit(carry, chunk, start)

    return jax.lax.fori_loop(0, packed.num_chunks, body, carry)


def write(
    column: Shaped[Array, "G P ..."], values: Shaped[Array, "G C ..."], start: Int[Array, ""]
) -> Shaped[Array, "G P ..."]:
    """`column` with a chunk's `values` in the rows from `start` on."""
    values = values.astype(column.dtype)
    return jax.lax.dynamic_update_slice_in_dim(column, values, start, axis=1)


def restore(column: Shaped[Array, "G P ..."], packed: Packed) -> Shaped[Array, "G R ..."]:
    """Put rows back in the order of the batch."""
    return _take(column, packed.ranks)


def _take(column: Shaped[Array, "G P ..."], places: Int[Array, "G R"]) -> Shaped[Array, "G R ..."]:
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(column, places)
