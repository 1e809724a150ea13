"""Modules of objectives: trained, sharded, saved and restored beside the student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import PLAIN, RTOL, assert_same_step, copied, sharded, take_step
from tiny_run import assemble, data

from jaxdistill.sharding import MeshConfig
from jaxdistill.train import AdamW, Checkpoints
from jaxdistill.train.schedules import Constant

TRAINABLE = {"objectives": ("dskd", "cross_entropy"), "weights": (0.5, 0.5)}


@pytest.fixture(scope="module")
def batch():
    return next(data())


@pytest.fixture(scope="module")
def plain(batch):
    return take_step(batch, devices=1, **TRAINABLE)


@pytest.mark.parametrize(
    ("mesh", "devices", "accumulate"),
    [
        (None, 1, 4),
        (MeshConfig(data=4), 4, 2),
        (MeshConfig(data=1, fsdp=2, tensor=2), 4, 1),
    ],
    ids=["accumulated", "data", "fsdp and tensor"],
)
def test_accumulation_and_mesh_do_not_change_a_step(batch, plain, mesh, devices, accumulate):
    options = {"mesh_config": mesh, "devices": devices, "accumulate": accumulate}
    assert_same_step(take_step(batch, **options, **TRAINABLE), plain)


def test_gradient_norm_includes_modules_and_terms_are_recorded(plain):
    metrics, moments = plain[:2]
    assert moments["dskd"]["to_student"]["kernel"].any()
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moments))) / 0.1
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=RTOL)
    terms = [value for name, value in metrics.items() if name.startswith("train/dskd_")]
    assert len(terms) == 3
    np.testing.assert_allclose(metrics["train/dskd"], sum(terms), rtol=RTOL)
    expected = 0.5 * metrics["train/dskd"] + 0.5 * metrics["train/cross_entropy"]
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)


def test_run_with_modules_continues_to_the_same_bits(tmp_path, batch):
    tiny = assemble(devices=1, optimizer=PLAIN, **TRAINABLE)

    def take_steps(state, count):
        for _ in range(count):
            state, _ = tiny.step(state, tiny.teacher_params, sharded(batch, tiny))
        return state

    whole = jax.device_get(take_steps(copied(tiny.state), 4))
    checkpoints = Checkpoints(tmp_path, fingerprint={})
    checkpoints.save(take_steps(copied(tiny.state), 2), {})
    restored = checkpoints.restore(tiny.template)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, take_steps(restored.state, 2), whole)
    before, after = (state.modules["dskd"]["to_teacher"]["bias"] for state in (tiny.state, whole))
    assert np.abs(before - after).min() > 0


def test_modules_have_their_own_learning_rate():
    optimizer = AdamW(learning_rate=0.1, schedule=Constant(), eps=1e-8)
    params = {"student": {"w": jnp.ones((2, 2))}, "dskd": {"w": jnp.ones((2, 2))}}
    axes = jax.tree.map(lambda leaf: (None, None), params)
    transform = optimizer.make_optimizer(10, axes, {"dskd": 3.0})
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates["student"]["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["dskd"]["w"], -0.3, rtol=1e-5)
