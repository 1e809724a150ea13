"""Collectives of compiled programs: kinds, groups, bytes, and trips of loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdistill.plan.hlo import list_collectives
from jaxdistill.sharding import MeshConfig, make_mesh

TRIPS, SIZE = 5, 64
MESH = {"data": 2, "fsdp": 1, "tensor": 2}


def compile_text(function, mesh):
    """Compile a function of each device's share of `[4 * SIZE]` numbers."""
    split = PartitionSpec(("data", "tensor"))
    sharded = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return jax.jit(sharded).lower(jnp.zeros(4 * SIZE)).compile().as_text()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, tensor=2))


@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_a_collective_in_a_loop_counts_for_each_trip(mesh, axis):
    def loop(x):
        return jax.lax.scan(lambda c, _: (jax.lax.psum(c, axis), None), x, length=TRIPS)[0]

    (one,) = list_collectives(compile_text(loop, mesh), MESH)
    assert (one.kind, one.group_size, one.axes) == ("all-reduce", 2, axis)
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
        collectives = list_collectives(compile_text(function, mesh), MESH)
        assert [(one.kind, one.num_bytes) for one in collectives] == [(kind, sent)]


def test_a_loop_whose_trips_are_not_known_takes_those_of_the_caller(mesh):
    def loop(x):
        def body(carry):
            n, y = carry
            return n - 1, jax.lax.psum(y, "tensor")

        return jax.lax.while_loop(lambda c: c[0] > 0, body, (jnp.int32(x[0]), x))[1]

    text = compile_text(loop, mesh)
    sizes = [list_collectives(text, MESH, unknown_trips=n)[0].num_bytes for n in (1, 7)]
    assert sizes[1] == 7 * sizes[0]


GROUPS = {
    "replica_groups=mesh['a'=4,'b'=2] {'b'}": [0, 1],
    "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}": [0, 4],
    "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}": [0, 1, 2, 3],
    "replica_groups=[4,2]<=[8]": [0, 1],
    "replica_groups=[4,2]<=[2,2,2]T(0,2,1)": [0, 2],
    "replica_groups=[2,4]<=[4,2]T(1,0)": [0, 2, 4, 6],
    "replica_groups={{0,4},{1,5}}": [0, 4],
    "source_target_pairs={{0,0},{1,3},{3,1}}": [1, 3],
    "": list(range(8)),
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_are_read_in_every_notation(text):
    (one,) = list_collectives(_module(f"all-reduce(%x), channel_id=1, {text}"), AXES)
    group = np.array(GROUPS[text])
    assert one.group_size == len(group)
    coordinates = np.array(np.unravel_index(group, tuple(AXES.values())))
    used = [name for name, row in zip(AXES, coordinates, strict=True) if len(set(row)) > 1]
    assert one.axes == "+".join(used)


AXES = {"data": 2, "fsdp": 2, "tensor": 2}


def _module(instruction, result="f32[100]{0}"):
    return f"ENTRY %main (x: f32[100]) -> f32[100] {{\n  ROOT %r = {result} {instruction}\n}}\n"


@pytest.mark.parametrize(
    ("instruction", "result", "sent"),
    [
        ("all-reduce-start(%x)", "(f32[80], f32[20])", 100 * 4 * 2 * 7 / 8),
        ("all-gather-start(%x)", "(f32[10], f32[80])", 80 * 4 * 7 / 8),
        ("reduce-scatter-start(%x)", "((f32[80]), f32[10])", 10 * 4 * 7),
        ("collective-permute-start(%x)", "(f32[10], f32[10], u32[], u32[])", 10 * 4),
    ],
)
def test_a_start_holds_operands_and_results(instruction, result, sent):
    (one,) = list_collectives(_module(instruction, result), AXES)
    assert one.num_bytes == pytest.approx(sent)


def test_a_scattered_sum_of_a_tpu_is_named_and_counted_once():
    text = (
        "%all-reduce-scatter.1 (x: f32[80]) -> f32[10] {\n"
        "  %r = f32[80]{0} all-reduce(%x), channel_id=1, replica_groups=[1,8]<=[8]\n}\n"
        + _module('fusion(%x), calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/a"}')
    )
    (one,) = list_collectives(text, AXES)
    assert (one.kind, one.source) == ("reduce-scatter", "jit(step)/a")
    assert one.num_bytes == 80 * 4 * 7 / 8
