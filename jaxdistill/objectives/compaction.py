"""Compaction of scored positions: they move to the front, and a loop reads them chunk by chunk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from jaxdistill.pytree import pytree

_Carry = TypeVar("_Carry")
_Columns = TypeVar("_Columns")


@pytree
@dataclass(frozen=True)
class Compacted(Generic[_Columns]):
    """Positions of each shard, with the scored ones first and in their order.

    Attributes:
        columns: Pytree of arrays whose length per shard is a multiple of `chunk_size`. They are 0
            after the last scored position, so that no value of a skipped position reaches a sum.
        compacted_index: Index in `columns` of each position of the batch.
        num_chunks: Number of chunks that hold the scored positions of every shard.
        chunk_size: Positions per chunk.
    """

    columns: _Columns
    compacted_index: Int[Array, "G R"]
    num_chunks: Int[Array, ""]
    chunk_size: int = field(metadata={"static": True})


def compact(
    is_scored: Bool[Array, "G R"], columns: _Columns, chunk_size: int
) -> Compacted[_Columns]:
    """Move the scored positions of `columns` `[G, R, ...]` to the front of their shard, in order.

    A chunk has `chunk_size` positions, or fewer if a shard has fewer.
    """
    num_positions = is_scored.shape[1]
    chunk_size = min(chunk_size, num_positions)
    order = jnp.argsort(~is_scored, axis=1, stable=True)
    compacted_index = jnp.argsort(order, axis=1)
    order = jnp.pad(order, ((0, 0), (0, -num_positions % chunk_size)))
    num_scored = jnp.sum(is_scored, axis=1, keepdims=True)
    is_filled = jax.lax.broadcasted_iota(num_scored.dtype, order.shape, 1) < num_scored

    def move(column: Array) -> Array:
        column = _gather(column, order)
        return jnp.where(is_filled.reshape(is_filled.shape + (1,) * (column.ndim - 2)), column, 0)

    num_chunks = (jnp.max(num_scored) + chunk_size - 1) // chunk_size
    return Compacted(jax.tree.map(move, columns), compacted_index, num_chunks, chunk_size)


def fold_chunks(
    compacted: Compacted[_Columns],
    update: Callable[[_Carry, _Columns, Int[Array, ""]], _Carry],
    carry: _Carry,
) -> _Carry:
    """Fold `carry = update(carry, chunk, start)` over all chunks; their number may be traced."""

    def body(index: Array, carry: _Carry) -> _Carry:
        start = index * compacted.chunk_size

        def slice_chunk(column: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(column, start, compacted.chunk_size, axis=1)

        return update(carry, jax.tree.map(slice_chunk, compacted.columns), start)

    return jax.lax.fori_loop(0, compacted.num_chunks, body, carry)


def write_chunk(
    column: Shaped[Array, "G P ..."], values: Shaped[Array, "G C ..."], start: Int[Array, ""]
) -> Shaped[Array, "G P ..."]:
    """Return `column` with the `values` of a chunk written from index `start` on."""
    values = values.astype(column.dtype)
    return jax.lax.dynamic_update_slice_in_dim(column, values, start, axis=1)


def scatter(
    column: Shaped[Array, "G P ..."], compacted: Compacted[Any]
) -> Shaped[Array, "G R ..."]:
    """Move compacted values back to their positions in the batch."""
    return _gather(column, compacted.compacted_index)


def _gather(
    column: Shaped[Array, "G P ..."], indices: Int[Array, "G R"]
) -> Shaped[Array, "G R ..."]:
    return jax.vmap(lambda c, i: c.at[i].get(mode="promise_in_bounds"))(column, indices)
