"""The mesh: which devices split the batch, which split the parameters."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
"""The mesh axes, outermost first: neighbouring devices, which talk fastest, share a `tensor`."""

_Size = Annotated[int, Field(ge=-1)]


@configclass
class MeshConfig:
    """How many devices there are along each mesh axis; -1, at most once, takes what is left.

    Attributes:
        data: Splits the batch.
        fsdp: Splits the batch, the parameters and the optimizer's state.
        tensor: Splits heads, feed-forward channels and words.
    """

    data: _Size = -1
    fsdp: _Size = 1
    tensor: _Size = 1

    def axis_sizes(self, num_devices: int) -> tuple[int, ...]:
        """The size of each of `AXES`.

        Raises:
            UserError: when they do not multiply to `num_devices`.
        """
        asked = (self.data, self.fsdp, self.tensor)
        shown = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, asked, strict=True))
        if 0 in asked or asked.count(-1) > 1:
            raise UserError(
                f"mesh ({shown}): sizes are positive, and one at most is -1 (= what is left)."
            )
        fixed = int(np.prod([size for size in asked if size != -1]))
        free = num_devices // fixed
        found = tuple(free if size == -1 else size for size in asked)
        if int(np.prod(found)) != num_devices:
            raise UserError(
                f"mesh ({shown}): the sizes multiply to {fixed}, which does not fit "
                f"{num_devices} device(s). Set `mesh.data=-1` to use what the others leave, "
                f"with fsdp * tensor dividing {num_devices}."
            )
        return found


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all `devices` (of every process). The compiler chooses between the rules."""
    devices = jax.devices() if devices is None else devices
    sizes = config.axis_sizes(len(devices))
    # jax.make_mesh defaults to *explicit* axes, under which every operation must name its own.
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
