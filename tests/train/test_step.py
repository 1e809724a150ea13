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
from jaxdistill.train.schedules import Constant, Linear

pytestmark = pytest.mark.smoke

RTOL = 1e-5
EPSILON = 1e6

# No clipping, and a large epsilon: Adam divides a nearly zero gradient by itself, so that rounding
# would decide its sign.
PLAIN = AdamW(learning_rate=0.01, schedule=Constant(), clip_norm=None, eps=1e-3)

# `dskd` and `hidden` have modules of their own, which are trained beside the student.
OBJECTIVES = ("forward_kl", "dskd", "hidden", "attention")


def copied(state):
    return jax.tree.map(jnp.copy, state)


def sharded(batch, tiny):
    return jax.device_put(batch, batch_sharding(tiny.mesh))


def take_step(batch, is_balanced=True, **kwargs):
    tiny = assemble(optimizer=PLAIN, objectives=OBJECTIVES, is_balanced=is_balanced, **kwargs)
    before = jax.device_get(tiny.state.params)
    state, metrics = tiny.step(copied(tiny.state), tiny.frozen, sharded(batch, tiny))
    moments = optax.tree.get(jax.device_get(state.opt_state), "mu")  # (1 - b1) times the gradient
    return jax.device_get(metrics), moments, before, jax.device_get(state.params)


def assert_same_step(actual, expected):
    for name, value in actual[0].items():
        np.testing.assert_allclose(value, expected[0][name], rtol=RTOL, err_msg=name)
    for (path, moment), wanted in zip(
        jax.tree.leaves_with_path(actual[1]), jax.tree.leaves(expected[1]), strict=True
    ):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(moment, wanted, rtol=RTOL, atol=RTOL * scale, err_msg=str(path))


@pytest.fixture(scope="module")
def batch():
    return next(data())


@pytest.fixture(scope="module")
def plain(batch):
    return take_step(batch, devices=1)


@pytest.fixture(scope="module")
def plain_run():
    return assemble(optimizer=PLAIN, objectives=OBJECTIVES, devices=1)


@pytest.fixture(scope="module")
def scheduled_run():
    """Adam with b1 = b2 = 0 and a huge epsilon is SGD: update = -learning_rate / eps * gradient."""
    optimizer = AdamW(
        learning_rate=0.1 * EPSILON,
        schedule=Linear(),
        warmup_steps=2,
        b1=0.0,
        b2=0.0,
        eps=EPSILON,
        clip_norm=None,
    )
    weights = (((0, 1.0), (2, 0.5)), 1.5)
    return optimizer, assemble(optimizer=optimizer, devices=1, weights=weights, num_steps=4)


# Every mesh axis is longer than 1 in one of these cases, and accumulation splits both batches.
FSDP_AND_TENSOR = {"mesh_config": MeshConfig(data=1, fsdp=2, tensor=2), "accumulate": 2}
DATA_AND_FSDP = {"mesh_config": MeshConfig(data=2, fsdp=2), "accumulate": 4}


def test_mesh_and_accumulation_do_not_change_a_step(batch, plain):
    assert_same_step(take_step(batch, **FSDP_AND_TENSOR), plain)


def test_padding_mesh_and_accumulation_do_not_change_a_step(batch, plain):
    def pad(name, array):
        padding = -1 if name == "example_ids" else 0
        longer = np.pad(array, [(0, 0), (0, 8)], constant_values=padding)
        return np.concatenate([longer, np.full_like(longer, padding)])

    fields = {k: v for k, v in dataclasses.asdict(batch).items() if v is not None}
    padded = dataclasses.replace(batch, **{k: pad(k, v) for k, v in fields.items()})
    assert_same_step(take_step(padded, **DATA_AND_FSDP), plain)


def test_loss_is_the_weighted_sum_of_the_objectives(plain):
    metrics = plain[0]
    expected = sum(
        metrics[f"train/{name}_weight"] * metrics[f"train/{name}"] for name in OBJECTIVES
    )
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)
    assert metrics["train/forward_kl"] > 0


def test_metrics_are_token_counts_and_norms(batch, plain):
    metrics, moments, _, after = plain
    assert metrics["train/scored_tokens"] == batch.loss_mask.sum()
    assert metrics["train/tokens"] == (batch.segment_ids > 0).sum()
    assert metrics["train/learning_rate"] == np.float32(PLAIN.learning_rate)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moments))) / 0.1
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=RTOL)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(after)))
    np.testing.assert_allclose(metrics["train/param_norm"], norm, rtol=RTOL)


def test_recorded_weights_and_learning_rates_are_those_applied(batch, scheduled_run):
    optimizer, tiny = scheduled_run
    schedule = optimizer.learning_rate_schedule(4)
    state = copied(tiny.state)
    for step, weight in enumerate((1.0, 0.75, 0.5, 0.5)):
        before = jax.device_get(state.params)
        state, metrics = tiny.step(state, tiny.frozen, sharded(batch, tiny))
        assert metrics["train/forward_kl_weight"] == weight
        expected = weight * metrics["train/forward_kl"] + 1.5 * metrics["train/cross_entropy"]
        np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)
        learning_rate = float(metrics["train/learning_rate"])
        update = jax.tree.map(np.subtract, jax.device_get(state.params), before)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(update)))
        expected = learning_rate / EPSILON * metrics["train/grad_norm"]
        np.testing.assert_allclose(norm, expected, rtol=1e-4)
        np.testing.assert_allclose(learning_rate, schedule(step), rtol=RTOL)


def test_gradient_equals_a_central_difference_of_the_loss(batch, scheduled_run):
    """A difference along the gradient checks everything in a step but the optimizer.

    The gradient of `dskd` is not that of its value, so it is not among these objectives.
    """
    _, tiny = scheduled_run
    state, metrics = tiny.step(copied(tiny.state), tiny.frozen, sharded(batch, tiny))
    gradient = jax.device_get(optax.tree.get(state.opt_state, "mu"))  # b1 = 0
    norm = float(metrics["train/grad_norm"])

    def loss_at(distance):
        params = jax.tree.map(
            lambda p, g: jax.device_put(
                np.asarray(p) + np.float32(distance / norm) * g, p.sharding
            ),
            tiny.state.params,
            gradient,
        )
        state = dataclasses.replace(copied(tiny.state), params=params)
        return float(tiny.step(state, tiny.frozen, sharded(batch, tiny))[1]["train/loss"])

    slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2
    np.testing.assert_allclose(slope, norm, rtol=1e-2)


def test_batch_without_scored_positions_changes_no_parameter(batch):
    unscored = dataclasses.replace(batch, loss_mask=np.zeros_like(batch.loss_mask))
    metrics, _, before, after = take_step(unscored, devices=1)
    assert metrics["train/loss"] == 0
    assert metrics["train/grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_training_lowers_the_loss_with_one_compilation(batch, plain_run):
    tiny = plain_run
    state, losses = copied(tiny.state), []
    before = tiny.step._cache_size()  # pyright: ignore
    for _ in range(10):
        state, metrics = tiny.step(state, tiny.frozen, sharded(batch, tiny))
        losses.append(float(metrics["train/loss"]))
    assert np.all(np.diff(losses) < 0)
    assert int(state.step) == 10
    assert tiny.step._cache_size() - before <= 1  # pyright: ignore


def test_state_is_donated_and_teacher_is_not(batch, plain_run):
    tiny = plain_run
    state = copied(tiny.state)
    tiny.step(state, tiny.frozen, sharded(batch, tiny))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tiny.frozen))


def test_initial_state_shares_no_array_with_its_source(plain_run):
    """A student made of its teacher's layers shares arrays with it; they must not be donated."""
    tiny = plain_run
    source = fresh_params(STUDENT, 0)
    for copy, original in zip(
        jax.tree.leaves(tiny.state.params), jax.tree.leaves(source), strict=True
    ):
        np.testing.assert_array_equal(copy, original)
        assert copy.unsafe_buffer_pointer() != original.unsafe_buffer_pointer()


def test_no_gradient_reaches_the_teacher(batch, plain_run):
    tiny = plain_run
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(frozen):
        return tiny.step.__wrapped__(tiny.state, frozen, batch)[1]["train/loss"]

    gradient = jax.jit(jax.grad(loss))(tiny.frozen)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_second_objective_of_a_type_is_numbered(batch):
    tiny = assemble(devices=1, objectives=("cross_entropy", "forward_kl", "cross_entropy"))
    _, metrics = jax.eval_shape(tiny.step, tiny.state, tiny.frozen, batch)
    assert [name for name in metrics if "cross" in name or "kl" in name] == [
        "train/cross_entropy",
        "train/cross_entropy_2",
        "train/forward_kl",
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_step_keeps_all_dtypes(batch, dtype):
    """Otherwise the second step would compile again, and a checkpoint would not fit its run."""
    tiny = assemble(devices=1, dtype=dtype)
    after, _ = jax.eval_shape(tiny.step, tiny.state, tiny.frozen, batch)
    types = [
        jax.tree.map(lambda leaf: leaf.dtype, state) for state in (tiny.state, tiny.template, after)
    ]
    assert types[0] == types[1] == types[2]
    assert types[0].params["embedding"] == dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(tiny.state.opt_state)} == {
        "int32",
        "float32",
    }


def test_batch_size_that_cannot_be_split_is_refused():
    mesh = make_mesh(MeshConfig(fsdp=2))
    check_batch_size(BATCH_SIZE, 2, mesh)
    with pytest.raises(UserError, match=r"train\.batch_size = 8 .* Use a multiple of 12"):
        check_batch_size(BATCH_SIZE, 3, mesh)


def test_step_keeps_all_shardings(batch):
    tiny = assemble(optimizer=PLAIN, objectives=OBJECTIVES, **FSDP_AND_TENSOR)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, tiny.state)
    assert shardings.params["embedding"].spec == PartitionSpec("tensor", "fsdp")
    state, _ = tiny.step(copied(tiny.state), tiny.frozen, sharded(batch, tiny))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
