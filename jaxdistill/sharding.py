"""The device mesh, and shardings by the names of logical axes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
"""The mesh axes, outermost first, so that `tensor` spans neighbouring, best connected devices."""

BATCH_MESH_AXES = ("data", "fsdp")
"""The mesh axes over which a batch is sharded."""

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

_Size = Annotated[int, Field(ge=-1)]


@configclass
class MeshConfig:
    """Number of devices along each mesh axis; -1, for one axis at most, is all that remain.

    Attributes:
        data: Data parallelism: shards the batch.
        fsdp: Fully sharded data parallelism: shards the batch, the parameters and the state of
            the optimizer.
        tensor: Tensor parallelism: shards attention heads, feed-forward channels and the
            vocabulary.
    """

    data: _Size = -1
    fsdp: _Size = 1
    tensor: _Size = 1

    def axis_sizes(self, num_devices: int) -> tuple[int, ...]:
        """Return the size of each of `MESH_AXES`; UserError if they do not give `num_devices`."""
        requested = (self.data, self.fsdp, self.tensor)
        text = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, requested, strict=True))
        if 0 in requested or requested.count(-1) > 1:
            raise UserError(
                f"mesh ({text}): expected positive sizes, and -1 (all devices that remain) for one "
                "axis at most. Set `mesh.data=-1` and the others to 1 or more."
            )
        fixed = math.prod(size for size in requested if size != -1)
        sizes = tuple(num_devices // fixed if size == -1 else size for size in requested)
        if math.prod(sizes) != num_devices:
            raise UserError(
                f"mesh ({text}): the sizes multiply to {fixed}, which does not fit "
                f"{num_devices} device(s). Set `mesh.data=-1` to use all that remain, with "
                f"fsdp * tensor dividing {num_devices}."
            )
        return sizes


def check_single_process(*, takes_devices: bool = True) -> None:
    """Raise UserError if JAX runs in several processes: files and signals are those of one.

    A process may have any number of devices. A parent that leaves them to its children does not
    take them here; it then knows only of processes that `jax.distributed` has joined.
    """
    if not takes_devices and not jax.distributed.is_initialized():
        return
    if (count := jax.process_count()) > 1:
        raise UserError(
            f"JAX runs in {count} processes, and jaxdistill trains and writes in one only. Start "
            "it without `jax.distributed`, on one host; `mesh` divides all devices of a host."
        )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Create the mesh over `devices`; None for all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    sizes = config.axis_sizes(len(devices))
    # An axis may span a part of a torus's dimension: 16 of 8 x 8 chips.
    array = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    # With Auto, the compiler chooses shardings between the named ones. Under Explicit every
    # operation must name its sharding.
    return Mesh(array, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def named_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """Return the sharding of every array of a tree, from its logical axis names and its shapes.

    An array axis is replicated if its size is no multiple of the mesh axis, or if an earlier axis
    of the array uses that mesh axis.
    """

    def sharding(names: LogicalAxes, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*_partition_axes(mesh, names, leaf.shape)))

    return jax.tree.map(
        sharding, logical_axes, shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over `BATCH_MESH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_MESH_AXES))


def shard_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Place a batch on the devices; every process has the whole batch and keeps its share."""
    make_array = jax.make_array_from_process_local_data
    return jax.tree.map(lambda array: make_array(sharding, array, array.shape), batch)


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
