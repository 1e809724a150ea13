"""Modules of objectives: trained, saved and restored beside the student.

`test_step.py` compares the gradients of the same modules over meshes and accumulation.
"""

import jax
import numpy as np
import pytest
from test_step import OBJECTIVES, PLAIN, RTOL, copied, sharded, take_step
from tiny_run import assemble, data

from jaxdistill.train import AdamW, Checkpoints, Fingerprint
from jaxdistill.train.schedules import Constant


@pytest.fixture(scope="module")
def batch():
    return next(data())


@pytest.fixture(scope="module")
def plain(batch):
    return take_step(batch, is_balanced=False, devices=1)


def test_gradient_norm_includes_modules_and_terms_are_recorded(plain):
    metrics, moments = plain[:2]
    assert moments["dskd"]["to_student"]["kernel"].any()
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moments))) / 0.1
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=RTOL)
    terms = [value for name, value in metrics.items() if name.startswith("train/dskd_")]
    assert len(terms) == 3
    np.testing.assert_allclose(metrics["train/dskd"], sum(terms), rtol=RTOL)


def test_run_with_modules_continues_to_the_same_bits(tmp_path, batch):
    tiny = assemble(devices=1, optimizer=PLAIN, objectives=OBJECTIVES)

    def take_steps(state, count):
        for _ in range(count):
            state, _ = tiny.step(state, tiny.frozen, sharded(batch, tiny))
        return state

    whole = jax.device_get(take_steps(copied(tiny.state), 4))
    checkpoints = Checkpoints(tmp_path, fingerprint=Fingerprint())
    checkpoints.save(take_steps(copied(tiny.state), 2), {})
    restored = checkpoints.restore(tiny.template)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, take_steps(restored.state, 2), whole)
    before, after = (state.modules["dskd"]["to_teacher"]["bias"] for state in (tiny.state, whole))
    assert np.abs(before - after).min() > 0


def test_modules_have_their_own_learning_rate():
    optimizer = AdamW(learning_rate=0.1, schedule=Constant(), eps=1e-8)
    params = {
        "student": {"w": np.ones((2, 2), np.float32)},
        "dskd": {"w": np.ones((2, 2), np.float32)},
    }
    axes = jax.tree.map(lambda leaf: (None, None), params)
    transform = optimizer.make_optimizer(10, axes, {"dskd": 3.0})
    updates, _ = jax.jit(lambda p: transform.update(p, transform.init(p), p))(params)
    np.testing.assert_allclose(updates["student"]["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["dskd"]["w"], -0.3, rtol=1e-5)
