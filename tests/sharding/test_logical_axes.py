"""Shardings of arrays by the names of their axes."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from jaxdistill.sharding import (
    LOGICAL_AXIS_RULES,
    MeshConfig,
    batch_sharding,
    make_mesh,
    named_shardings,
    num_batch_shards,
    replicated_sharding,
)

pytestmark = pytest.mark.smoke

AXES = {
    "embedding": ("vocab", "embed"),
    "layers": {
        "query": ("layers", "embed", "heads", "channels"),
        "norm": ("layers", "embed"),
        "gate": ("layers", "heads"),
        "square": ("embed", "embed"),
        "free": (None,),
    },
}
SHAPES = {
    "embedding": (10, 4),
    "layers": {
        "query": (3, 4, 2, 8),
        "norm": (3, 4),
        "gate": (3, 3),
        "square": (4, 4),
        "free": (4,),
    },
}
SHAPES = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, "float32"),
    SHAPES,
    is_leaf=lambda node: isinstance(node, tuple),
)


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(fsdp=2, tensor=2))


def test_logical_axes_are_sharded_over_mesh_axes(mesh):
    specs = jax.tree.map(lambda sharding: sharding.spec, named_shardings(mesh, AXES, SHAPES))
    assert specs["embedding"] == P("tensor", "fsdp")
    assert specs["layers"]["query"] == P(None, "fsdp", "tensor", None)
    assert specs["layers"]["norm"] == P(None, "fsdp")
    assert specs["layers"]["free"] == P(None)


def test_an_array_uses_a_mesh_axis_once(mesh):
    assert named_shardings(mesh, AXES, SHAPES)["layers"]["square"].spec == P("fsdp", None)


def test_an_indivisible_axis_is_replicated(mesh):
    assert named_shardings(mesh, AXES, SHAPES)["layers"]["gate"].spec == P(None, None)


def test_one_device_holds_whole_arrays():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for sharding in jax.tree.leaves(named_shardings(mesh, AXES, SHAPES)):
        assert sharding.is_fully_replicated


def test_a_batch_is_sharded_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2))
    assert num_batch_shards(mesh) == 4
    batch = jax.device_put(jax.numpy.zeros((8, 3)), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    assert replicated_sharding(mesh).is_fully_replicated


def test_every_rule_names_a_mesh_axis(mesh):
    assert {axis for axis in LOGICAL_AXIS_RULES.values() if axis} <= set(mesh.axis_names)


def test_axis_names_that_do_not_fit_the_shape_raise(mesh):
    with pytest.raises(ValueError, match="do not fit"):
        named_shardings(mesh, ("embed",), jax.ShapeDtypeStruct((2, 2), "float32"))
