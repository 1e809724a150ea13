"""What objectives learn beside the student: it is trained, placed, saved and restored with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import PLAIN, RTOL, assert_same, copied, one_step, placed
from tiny_run import assemble, data

from jaxdistill.sharding import MeshConfig
from jaxdistill.train import AdamW, Checkpoints
from jaxdistill.train.schedules import Constant

LEARNING = {"objectives": ("dskd", "cross_entropy"), "weights": (0.5, 0.5)}


@pytest.fixture(scope="module")
def batch():
    return next(data())


@pytest.fixture(scope="module")
def plain(batch):
    return one_step(batch, devices=1, **LEARNING)


@pytest.mark.parametrize(
    ("mesh", "devices", "accumulate"),
    [
        (None, 1, 4),
        (MeshConfig(data=4), 4, 2),
        (MeshConfig(data=1, fsdp=2, tensor=2), 4, 1),
    ],
    ids=["accumulated", "data", "fsdp and tensor"],
)
def test_neither_accumulation_nor_the_mesh_changes_anything(
    batch, plain, mesh, devices, accumulate
):
    options = {"mesh_config": mesh, "devices": devices, "accumulate": accumulate}
    assert_same(one_step(batch, **options, **LEARNING), plain)


def test_the_norm_of_the_gradient_is_of_all_and_the_parts_are_recorded(plain):
    metrics, found = plain[:2]
    assert found["dskd"]["to_student"]["kernel"].any()
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(found))) / 0.1
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=RTOL)
    parts = [value for name, value in metrics.items() if name.startswith("train/dskd_")]
    assert len(parts) == 3
    np.testing.assert_allclose(metrics["train/dskd"], sum(parts), rtol=RTOL)
    expected = 0.5 * metrics["train/dskd"] + 0.5 * metrics["train/cross_entropy"]
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=RTOL)


def test_a_run_goes_on_to_the_same_bits(tmp_path, batch):
    tiny = assemble(devices=1, optimizer=PLAIN, **LEARNING)

    def stepped(state, count):
        for _ in range(count):
            state, _ = tiny.step(state, tiny.teacher_params, placed(batch, tiny))
        return state

    whole = jax.device_get(stepped(copied(tiny.state), 4))
    checkpoints = Checkpoints(tmp_path, fingerprint={})
    checkpoints.save(stepped(copied(tiny.state), 2), {})
    restored = checkpoints.restore(tiny.like)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, stepped(restored.state, 2), whole)
    began, ended = (state.modules["dskd"]["to_teacher"]["bias"] for state in (tiny.state, whole))
    assert np.abs(began - ended).min() > 0


def test_modules_have_a_learning_rate_of_their_own():
    optimizer = AdamW(learning_rate=0.1, schedule=Constant(), eps=1e-8)
    params = {"student": {"w": jnp.ones((2, 2))}, "dskd": {"w": jnp.ones((2, 2))}}
    axes = jax.tree.map(lambda leaf: (None, None), params)
    transform = optimizer.make_optimizer(10, axes, {"dskd": 3.0})
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates["student"]["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["dskd"]["w"], -0.3, rtol=1e-5)
