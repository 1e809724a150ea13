import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny_run import BATCH_SIZE, STUDENT, assemble, data, fresh_params

from jaxdistill.errors import UserError
from jaxdistill.sharding import MeshConfig, batch_sharding, make_mesh
from jaxdistill.train import AdamW, check_batch_size
from jaxdistill.train.schedules import Constant

RTOL = 1e-5

# No clipping, and an epsilon that hides rounding: where a gradient is nearly zero, Adam divides
# it by itself, and its sign would decide.
PLAIN = AdamW(learning_rate=0.01, schedule=Constant(), clip_norm=None, eps=1e-3)


def copied(state):
    return jax.tree.map(jnp.copy, state)


def placed(batch, tiny):
    return jax.device_put(batch, batch_sharding(tiny.mesh))


def one_step(batch, **kwargs):
    tiny = assemble(optimizer=PLAIN, **kwargs)
    before = jax.device_get(tiny.state.params)
    state, metrics = tiny.step(copied(tiny.state), tiny.teacher_params, placed(batch, tiny))
    moments = optax.tree.get(jax.device_get(state.opt_state), "mu")  # (1 - b1) times the gradient
    return jax.device_get(metrics), moments, before, jax.device_get(state.params)


def assert_same(one, other):
    for name, value in one[0].items():
        np.testing.assert_allclose(value, other[0][name], rtol=RTOL, err_msg=name)
    for (path, value), wanted in zip(
        jax.tree.leaves_with_path(one[1]), jax.tree.leaves(other[1]), strict=True
    ):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(value, wanted, rtol=RTOL, atol=RTOL * scale, err_msg=str(path))


@pytest.fixture(scope="module")
def batch():
    return next(data())


@pytest.fixture(scope="module")
def plain(batch):
    return one_step(batch, devices=1)


def test_accumulation_changes_nothing(batch, plain):
    assert_same(one_step(batch, devices=1, accumulate=8), plain)


@pytest.mark.parametrize(
    ("mesh", "accumulate"),
    [
        (MeshConfig(data=4), 2),
        (MeshConfig(data=1, fsdp=4), 1),
        (MeshConfig(data=1, fsdp=2, tensor=2), 2),
    ],
    ids=lambda value: str(value),
)
def test_the_mesh_changes_nothing(batch, plain, mesh, accumulate):
    assert_same(one_step(batch, mesh_config=mesh, accumulate=accumulate), plain)


def test_padding_changes_nothing(batch, plain):
    def longer(name, array):
        fill = -1 if name == "example_ids" else 0
        wider = np.pad(array, [(0, 0), (0, 8)], constant_values=fill)
        return np.concatenate([wider, np.full_like(wider, fill)])

    fields = dataclasses.asdict(batch)
    longer_fields = {k: longer(k, v) for k, v in fields.items() if v is not None}
    padded = dataclasses.replace(batch, **longer_fields)
    assert_same(one_step(padded, devices=1, accumulate=2), plain)


def test_the_loss_is_the_weighted_sum_of_its_objectives(plain):
    metrics = plain[0]
    expected = 0.5 * metrics["train/forward_kl"] + 1.5 * metrics["train/cross_entropy"]
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)
    assert metrics["train/forward_kl"] > 0


def test_a_weight_moves_along_its_line(batch):
    tiny = assemble(optimizer=PLAIN, devices=1, weights=(((0, 1.0), (2, 0.5)), 1.5))
    state = copied(tiny.state)
    for weight in (1.0, 0.75, 0.5, 0.5):
        state, metrics = tiny.step(state, tiny.teacher_params, placed(batch, tiny))
        assert metrics["train/forward_kl_weight"] == weight
        expected = weight * metrics["train/forward_kl"] + 1.5 * metrics["train/cross_entropy"]
        np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)


def test_metrics_count_places_and_norms(batch, plain):
    metrics, moments, _, after = plain
    assert metrics["train/scored_tokens"] == batch.loss_mask.sum()
    assert metrics["train/tokens"] == (batch.segment_ids > 0).sum()
    assert metrics["train/learning_rate"] == np.float32(PLAIN.learning_rate)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moments))) / 0.1
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=RTOL)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(after)))
    np.testing.assert_allclose(metrics["train/param_norm"], norm, rtol=RTOL)


def test_the_gradient_is_the_losss(batch):
    """A central difference along the gradient, which sees the whole step but for the optimizer."""
    tiny = assemble(optimizer=PLAIN, devices=1)
    state, metrics = tiny.step(copied(tiny.state), tiny.teacher_params, placed(batch, tiny))
    gradient = jax.tree.map(lambda moment: moment / 0.1, state.opt_state[0].mu)
    norm = float(metrics["train/grad_norm"])

    def loss_at(distance):
        moved = jax.tree.map(lambda p, g: p + distance * g / norm, tiny.state.params, gradient)
        there = dataclasses.replace(copied(tiny.state), params=moved)
        return float(tiny.step(there, tiny.teacher_params, placed(batch, tiny))[1]["train/loss"])

    slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2
    np.testing.assert_allclose(slope, norm, rtol=1e-2)


def test_a_batch_without_scored_places_moves_nothing(batch):
    silent = dataclasses.replace(batch, loss_mask=np.zeros_like(batch.loss_mask))
    metrics, _, before, after = one_step(silent, devices=1)
    assert metrics["train/loss"] == 0
    assert metrics["train/grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_training_lowers_the_loss_with_one_compilation(batch):
    tiny = assemble(optimizer=PLAIN, devices=1)
    state, losses = copied(tiny.state), []
    before = tiny.step._cache_size()  # pyright: ignore
    for _ in range(10):
        state, metrics = tiny.step(state, tiny.teacher_params, placed(batch, tiny))
        losses.append(float(metrics["train/loss"]))
    assert np.all(np.diff(losses) < 0)
    assert int(state.step) == 10
    assert tiny.step._cache_size() - before <= 1  # pyright: ignore


def test_the_state_is_donated_and_the_teacher_is_not(batch):
    tiny = assemble(optimizer=PLAIN, devices=1)
    state = copied(tiny.state)
    tiny.step(state, tiny.teacher_params, placed(batch, tiny))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tiny.teacher_params))


def test_a_fresh_state_shares_no_array_with_its_source():
    """A student made of its teacher's layers shares arrays with it, which must not be donated."""
    tiny = assemble(optimizer=PLAIN, devices=1)
    source = fresh_params(STUDENT, 0)
    for mine, given in zip(
        jax.tree.leaves(tiny.state.params), jax.tree.leaves(source), strict=True
    ):
        np.testing.assert_array_equal(mine, given)
        assert mine.unsafe_buffer_pointer() != given.unsafe_buffer_pointer()


def test_no_gradient_reaches_the_teacher(batch):
    tiny = assemble(optimizer=PLAIN, devices=1)
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(teacher_params):
        return tiny.step.__wrapped__(tiny.state, teacher_params, batch)[1]["train/loss"]

    gradient = jax.jit(jax.grad(loss))(tiny.teacher_params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_the_same_objective_twice_is_numbered(batch):
    tiny = assemble(devices=1, objectives=("cross_entropy", "forward_kl", "cross_entropy"))
    _, metrics = jax.eval_shape(tiny.step, tiny.state, tiny.teacher_params, batch)
    assert [name for name in metrics if "cross" in name or "kl" in name] == [
        "train/cross_entropy",
        "train/cross_entropy_2",
        "train/forward_kl",
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_changes_no_type(batch, dtype):
    """Or the second step would be compiled anew, and a checkpoint would not fit its run."""
    tiny = assemble(devices=1, dtype=dtype)
    after, _ = jax.eval_shape(tiny.step, tiny.state, tiny.teacher_params, batch)
    types = [
        jax.tree.map(lambda leaf: leaf.dtype, state) for state in (tiny.state, tiny.like, after)
    ]
    assert types[0] == types[1] == types[2]
    assert types[0].params["embedding"] == dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(tiny.state.opt_state)} == {
        "int32",
        "float32",
    }


def test_a_batch_that_cannot_be_split_is_refused():
    mesh = make_mesh(MeshConfig(fsdp=2))
    check_batch_size(BATCH_SIZE, 2, mesh)
    with pytest.raises(UserError, match=r"train\.batch_size = 8 .* Use a multiple of 12"):
        check_batch_size(BATCH_SIZE, 3, mesh)


def test_the_state_stays_where_it_was_placed(batch):
    tiny = assemble(optimizer=PLAIN, mesh_config=MeshConfig(data=1, fsdp=2, tensor=2), accumulate=2)
    where = jax.tree.map(lambda leaf: leaf.sharding, tiny.state)
    assert where.params["embedding"].spec == PartitionSpec("tensor", "fsdp")
    state, _ = tiny.step(copied(tiny.state), tiny.teacher_params, placed(batch, tiny))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == where
