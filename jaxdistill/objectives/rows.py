"""Which rows are walked, and in which order: the live ones first, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxdistill.types import Batch, Signal

_Carry = TypeVar("_Carry")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Places in which two models are compared: one group's, or several groups'.

    Attributes:
        student_hidden: What the student's head reads.
        teacher_hidden: What the teacher's head reads, where there is a teacher.
        labels: The word that follows.
        mask: How much the row counts; one of 0 is never looked at.
    """

    student_hidden: Float[Array, "*G R D"]
    teacher_hidden: Float[Array, "*G R E"] | None
    labels: Int[Array, "*G R"]
    mask: Float[Array, "*G R"]


def pair(
    student_hidden: Float[Array, "B T D"], signal: Signal | None, batch: Batch, *, num_groups: int
) -> Rows:
    """The places of a batch as rows: what the student makes of each beside the teacher's signal.

    Args:
        student_hidden: For every place of the batch.
        signal: Of the same places; None without a teacher.
        batch: Says what follows, and which places count.
        num_groups: How many devices hold a piece of the batch: each gets a group.
    """

    def grouped(array: Shaped[Array | np.ndarray, "B T *D"]) -> Shaped[Array, "G R *D"]:
        return jnp.reshape(array, (num_groups, -1, *array.shape[2:]))

    return Rows(
        grouped(student_hidden),
        None if signal is None else grouped(signal.hidden),
        grouped(batch.labels),
        grouped(batch.loss_mask),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Rows of each group, moved together so that those which count come first.

    Attributes:
        rows: A multiple of `chunk_rows` in each group; zeros from the last live row on, so that
            whatever stood in a row that does not count cannot spoil one that does.
        ranks: Where each row of the batch went.
        num_chunks: How many chunks hold all live rows of every group.
        chunk_rows: Rows in a chunk.
    """

    rows: Rows
    ranks: Int[Array, "G R"]
    num_chunks: Int[Array, ""]
    chunk_rows: int = field(metadata={"static": True})


def pack(rows: Rows, chunk_rows: int) -> Packed:
    """Move the rows whose mask is not 0 to the front of their group, in their order."""
    is_live = rows.mask != 0
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
    packed: Packed, visit: Callable[[_Carry, Rows, Int[Array, ""]], _Carry], carry: _Carry
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


def restore(column: Shaped[Array, "G P ..."], packed: Packed) -> Shaped[Array, "G R ..."]:
    """Put rows back in the order of the batch."""
    return _take(column, packed.ranks)


def _take(column: Shaped[Array, "G P ..."], places: Int[Array, "G R"]) -> Shaped[Array, "G R ..."]:
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(column, places)
