"""The sizes of the mesh, and its devices."""

import jax
import pytest
from jax.sharding import AxisType

from jaxdistill.errors import UserError
from jaxdistill.sharding import MeshConfig, make_mesh

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_minus_one_takes_the_remaining_devices(config, expected):
    assert config.axis_sizes(8) == expected


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=3),
        MeshConfig(fsdp=3),
        MeshConfig(data=2, fsdp=2, tensor=1),
        MeshConfig(data=-1, fsdp=-1),
        MeshConfig(data=0),
        MeshConfig(fsdp=16),
    ],
)
def test_sizes_that_do_not_fit_the_devices_raise(config):
    with pytest.raises(UserError, match="mesh"):
        config.axis_sizes(8)


def test_the_mesh_has_every_device_and_automatic_axes():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 2}
    assert set(mesh.devices.flat) == set(jax.devices())
    assert mesh.axis_types == (AxisType.Auto,) * 3
