import jax
import pytest
from jax.sharding import PartitionSpec as P

from jaxdistill.sharding import (
    LOGICAL_AXIS_RULES,
    MeshConfig,
    batch_sharding,
    indivisible_axis_messages,
    make_mesh,
    named_shardings,
    num_batch_shards,
    replicated_sharding,
)

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


def test_names_become_mesh_axes(mesh):
    found = jax.tree.map(lambda sharding: sharding.spec, named_shardings(mesh, AXES, SHAPES))
    assert found["embedding"] == P("tensor", "fsdp")
    assert found["layers"]["query"] == P(None, "fsdp", "tensor", None)
    assert found["layers"]["norm"] == P(None, "fsdp")
    assert found["layers"]["free"] == P(None)


def test_a_mesh_axis_is_used_once_per_array(mesh):
    assert named_shardings(mesh, AXES, SHAPES)["layers"]["square"].spec == P("fsdp", None)


def test_what_does_not_divide_stays_whole_and_is_named(mesh):
    assert named_shardings(mesh, AXES, SHAPES)["layers"]["gate"].spec == P(None, None)
    (line,) = indivisible_axis_messages(mesh, AXES, SHAPES)
    assert line.startswith("layers.gate: heads = 3")
    assert "mesh.tensor = 2" in line


def test_on_one_device_nothing_is_split_or_reported():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert indivisible_axis_messages(mesh, AXES, SHAPES) == []
    for sharding in jax.tree.leaves(named_shardings(mesh, AXES, SHAPES)):
        assert sharding.is_fully_replicated


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2))
    assert num_batch_shards(mesh) == 4
    placed = jax.device_put(jax.numpy.zeros((8, 3)), batch_sharding(mesh))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    assert replicated_sharding(mesh).is_fully_replicated


def test_every_rule_names_a_mesh_axis(mesh):
    assert {axis for axis in LOGICAL_AXIS_RULES.values() if axis} <= set(mesh.axis_names)


def test_axes_that_do_not_fit_the_shape_are_a_bug(mesh):
    with pytest.raises(ValueError, match="do not fit"):
        named_shardings(mesh, ("embed",), jax.ShapeDtypeStruct((2, 2), "float32"))
