"""Collectives of compiled programs: kinds, groups, bytes, and trips of loops."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxdistill.plan.hlo import list_collectives
from jaxdistill.sharding import MeshConfig, make_mesh

TRIPS, SIZE = 5, 64


def compile_text(function, mesh):
    """Compile a function of each device's share of `[4 * SIZE]` numbers."""
    split = PartitionSpec(("data", "tensor"))
    sharded = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return jax.jit(sharded).lower(jnp.zeros(4 * SIZE)).compile().as_text()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, tensor=2))


@pytest.mark.parametrize(
    ("axis", "stride"), [("data", 2), ("tensor", 1)], ids=["distant", "neighbours"]
)
def test_a_collective_in_a_loop_counts_for_each_trip(mesh, axis, stride):
    def loop(x):
        return jax.lax.scan(lambda c, _: (jax.lax.psum(c, axis), None), x, length=TRIPS)[0]

    (one,) = list_collectives(compile_text(loop, mesh), num_devices=4)
    assert (one.kind, one.group_size, one.group_stride) == ("all-reduce", 2, stride)
    # A ring of two sends half of the numbers, and half of the sums.
    assert one.num_bytes == TRIPS * SIZE * 4


def test_every_kind_sends_what_a_ring_does(mesh):
    axes = ("data", "tensor")
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    functions = {
        "all-gather": (partial(jax.lax.all_gather, axis_name=axes, tiled=True), 3 * SIZE * 4),
        "reduce-scatter": (
            partial(jax.lax.psum_scatter, axis_name=axes, tiled=True),
            3 * SIZE // 4 * 4,
        ),
        "all-to-all": (
            lambda x: jax.lax.all_to_all(x.reshape(4, -1), axes, 0, 0, tiled=True),
            3 * SIZE // 4 * 4,
        ),
        "collective-permute": (lambda x: jax.lax.ppermute(x, axes, pairs), SIZE * 4),
    }
    for kind, (function, sent) in functions.items():
        collectives = list_collectives(compile_text(function, mesh), num_devices=4)
        assert [(one.kind, one.num_bytes) for one in collectives] == [(kind, sent)]


def test_a_loop_whose_trips_are_not_known_takes_those_of_the_caller(mesh):
    def loop(x):
        def body(carry):
            n, y = carry
            return n - 1, jax.lax.psum(y, "tensor")

        return jax.lax.while_loop(lambda c: c[0] > 0, body, (jnp.int32(x[0]), x))[1]

    text = compile_text(loop, mesh)
    sizes = [list_collectives(text, num_devices=4, unknown_trips=n)[0].num_bytes for n in (1, 7)]
    assert sizes[1] == 7 * sizes[0]
