"""Execution of a model: its devices, and what the backward pass computes again."""

from dataclasses import dataclass
from typing import Literal

from jax.sharding import Mesh

Remat = Literal["none", "projections", "layers"]
"""Rematerialisation: what of a layer the backward pass computes again, to save memory."""


@dataclass(frozen=True)
class Execution:
    """Settings of a compiled program that change its results by rounding alone; hashable.

    Attributes:
        mesh: Devices that the program is compiled for, which choose the kernels; None for one
            device, of any kind.
        remat: `none` stores everything that the backward pass reads; `projections` stores the
            outputs of matrix products with weights, and of attention, and computes norms,
            rotations, scores and activations again; `layers` stores the input of each layer alone.
    """

    mesh: Mesh | None = None
    remat: Remat = "projections"

    @property
    def platform(self) -> str | None:
        """Platform of the devices: `cpu`, `gpu` or `tpu`; None where they are not known."""
        return None if self.mesh is None else self.mesh.devices.flat[0].platform


DEFAULT_EXECUTION = Execution()
"""One device, of any kind."""
