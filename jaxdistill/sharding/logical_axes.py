"""Shardings by name: rules that map the logical axes of parameters to the axes of the mesh."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LogicalAxes = tuple[str | None, ...]
"""The logical name of each axis of an array; None for an axis that is never sharded."""

LOGICAL_AXIS_RULES: Mapping[str, str | None] = {
    "layers": None,  # scanned over, so each device needs a shard of every layer
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "channels": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "positions": None,
}

BATCH_MESH_AXES = ("data", "fsdp")
"""The mesh axes over which a batch is sharded."""


def named_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """Return the sharding of every array of a tree.

    Args:
        mesh: The mesh of devices.
        logical_axes: A tree whose leaves are tuples of logical axis names.
        shapes: The same tree with leaves that have a `.shape`.

    Returns:
        The same tree of `NamedSharding`. An array axis is replicated if its size is no multiple
        of the mesh axis, or if an earlier axis of the array uses that mesh axis.
    """

    def sharding(names: LogicalAxes, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*_partition_axes(mesh, names, leaf.shape)))

    return jax.tree.map(sharding, logical_axes, shapes, is_leaf=_is_logical_axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over `BATCH_MESH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_MESH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """Return the number of shards of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_MESH_AXES)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _partition_axes(mesh: Mesh, names: LogicalAxes, shape: tuple[int, ...]) -> Iterator[str | None]:
    if len(names) != len(shape):
        raise ValueError(f"axes {names} do not fit an array of shape {shape}")
    used_axes: set[str] = set()
    for name, size in zip(names, shape, strict=True):
        axis = None if name is None else LOGICAL_AXIS_RULES[name]
        if axis is None or axis in used_axes or size % mesh.shape[axis]:
            yield None
        else:
            used_axes.add(axis)
            yield axis


def _is_logical_axes(node: Any) -> bool:
    return isinstance(node, tuple)
