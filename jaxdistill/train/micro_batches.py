"""Micro-batches: a batch in parts that are computed one after the other, and their sum."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxdistill.errors import UserError
from jaxdistill.sharding import BATCH_MESH_AXES, num_batch_shards
from jaxdistill.types import Batch

_Sums = TypeVar("_Sums")


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError unless every device gets as many sequences of every micro-batch."""
    divisor = accumulate * num_batch_shards(mesh)
    if batch_size % divisor:
        shards = " * ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in BATCH_MESH_AXES)
        raise UserError(
            f"train.batch_size = {batch_size} cannot be split evenly by accumulate {accumulate} "
            f"* {shards}. Use a multiple of {divisor}."
        )


def split_micro_batches(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """Reshape every array `[B, T]` to `[accumulate, B / accumulate, T]`; no sequence moves.

    The sequences of each device are divided among the micro-batches. Consecutive slices of the
    batch would put a whole micro-batch on a single device.
    """
    num_shards = num_batch_shards(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_MESH_AXES))

    def split(array: Array) -> Array:
        size, length = array.shape
        by_shard = array.reshape(num_shards, accumulate, -1, length).swapaxes(0, 1)
        micro_batches = by_shard.reshape(accumulate, size // accumulate, length)
        return jax.lax.with_sharding_constraint(micro_batches, sharding)

    return jax.tree.map(split, batch)


def sum_over_micro_batches(function: Callable[[Batch], _Sums], micro_batches: Batch) -> _Sums:
    """Return the float32 sum of `function` over micro-batches, computed one after the other."""

    def add(sums: _Sums, micro_batch: Batch) -> tuple[_Sums, None]:
        values = function(micro_batch)
        return jax.tree.map(lambda total, x: total + x.astype(total.dtype), sums, values), None

    first = jax.tree.map(lambda array: array[0], micro_batches)
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, micro_batches)[0]
