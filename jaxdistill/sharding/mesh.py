"""The device mesh, over which batches and parameters are sharded."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
from jax.sharding import AxisType, Mesh
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
"""The mesh axes, outermost first, so that `tensor` spans neighbouring, best connected devices."""

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
        """Return the size of each of `MESH_AXES`.

        Raises:
            UserError: The sizes do not multiply to `num_devices`.
        """
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


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Create the mesh over `devices`; None for all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    sizes = config.axis_sizes(len(devices))
    # With Auto, the compiler chooses shardings between the named ones. The default of
    # jax.make_mesh is Explicit, under which every operation must name its sharding.
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
