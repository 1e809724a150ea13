"""Shardings by name: one table from the axes that modules name to the axes of the mesh."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LogicalAxes = tuple[str | None, ...]
"""The logical name of each axis of one array."""

LOGICAL_AXIS_RULES: Mapping[str, str | None] = {
    "layers": None,  # scanned over, so each device needs its part of every layer
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "channels": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "positions": None,
}

BATCH_MESH_AXES = ("data", "fsdp")
"""The mesh axes that split a batch."""


def named_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """The sharding of every array of a tree.

    Args:
        mesh: The mesh to place the arrays on.
        axes: A tree whose leaves are tuples of logical axis names.
        shapes: The same tree, whose leaves have a `.shape`.

    Returns:
        The same tree of `NamedSharding`. An array axis that the mesh axis does not divide is
        replicated (`undivided` names it), as is a mesh axis that an earlier axis has taken.
    """

    def one(names: LogicalAxes, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*_partition_axes(mesh, names, leaf.shape)))

    return jax.tree.map(one, logical_axes, shapes, is_leaf=_is_logical_axes)


def indivisible_axis_messages(mesh: Mesh, logical_axes: Any, shapes: Any) -> list[str]:
    """A line for each array axis that stays whole because its mesh axis does not divide it."""
    return list(_indivisible_axis_messages(mesh, logical_axes, shapes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices of `BATCH_MESH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_MESH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """How many pieces a batch is split into."""
    count = 1
    for axis in BATCH_MESH_AXES:
        count *= mesh.shape[axis]
    return count


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _partition_axes(mesh: Mesh, names: LogicalAxes, shape: tuple[int, ...]) -> Iterator[str | None]:
    if len(names) != len(shape):
        raise ValueError(f"axes {names} do not fit an array of shape {shape}")
    taken: set[str] = set()
    for name, size in zip(names, shape, strict=True):
        axis = None if name is None else LOGICAL_AXIS_RULES[name]
        if axis is None or axis in taken or size % mesh.shape[axis]:
            yield None
        else:
            taken.add(axis)
            yield axis


def _indivisible_axis_messages(mesh: Mesh, logical_axes: Any, shapes: Any) -> Iterator[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(logical_axes, is_leaf=_is_logical_axes)
    for (path, names), leaf in zip(leaves, jax.tree.leaves(shapes), strict=True):
        for name, size in zip(names, leaf.shape, strict=True):
            axis = None if name is None else LOGICAL_AXIS_RULES[name]
            if axis is not None and size % mesh.shape[axis]:
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                yield (
                    f"{where}: {name} = {size} is no multiple of mesh.{axis} = "
                    f"{mesh.shape[axis]}, so every device keeps all of it"
                )


def _is_logical_axes(node: Any) -> bool:
    return isinstance(node, tuple)
