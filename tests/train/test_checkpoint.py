import ast
import dataclasses
import json
import os
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdistill.errors import UserError
from jaxdistill.sharding import MeshConfig, make_mesh
from jaxdistill.train import (
    AdamW,
    Checkpoints,
    abstract_state,
    init_state,
    state_shardings,
)

AXES = {"w": ("embed", "mlp"), "layers": {"scale": ("layers", "embed")}}


def build(mesh_config=None, *, embed=8, optimizer=AdamW(), seed=0):  # noqa: B008
    """A state with nothing but random numbers in it, and what describes it."""
    mesh = make_mesh(mesh_config or MeshConfig())
    params = {"w": jnp.zeros((embed, 4)), "layers": {"scale": jnp.zeros((2, embed))}}
    places = {"w": PartitionSpec("fsdp", "tensor"), "layers": {"scale": PartitionSpec()}}
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), places)
    transform = optimizer.make_optimizer(100, AXES)
    shardings = state_shardings(mesh, params, places, transform)
    like = abstract_state(params, transform, shardings)
    random = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: (100 * random.normal(size=leaf.shape)).astype(leaf.dtype),
        init_state(params, transform, shardings),
    )
    return like, jax.device_put(state, shardings)


def at(state, step):
    return dataclasses.replace(state, step=jnp.full_like(state.step, step))


def opened(directory, *, keep=2, **fingerprint):
    return Checkpoints(directory, keep=keep, fingerprint=fingerprint)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def built():
    return build()


def test_a_checkpoint_comes_back_to_the_bit(tmp_path, built):
    like, state = built
    checkpoints = opened(tmp_path)
    assert checkpoints.latest_step is None
    assert checkpoints.restore(like) is None
    checkpoints.save(at(state, 5), {"next_index": 17}, {"seconds": 1.5})
    restored = opened(tmp_path).restore(like)
    assert restored.elapsed == {"seconds": 1.5}
    assert_equal(restored.state, at(state, 5))
    assert restored.data_state == {"next_index": 17}
    assert restored.skipped == ()


def test_it_holds_the_state_and_nothing_else(tmp_path, built):
    _, state = built
    opened(tmp_path).save(at(state, 1), {})
    written = json.loads((tmp_path / "1" / "state" / "_METADATA").read_text())["tree_metadata"]
    roots = {ast.literal_eval(name)[0] for name in written}
    assert roots == {"step", "params", "opt_state"}


def test_the_latest_are_kept_and_the_newest_is_read(tmp_path, built):
    like, state = built
    checkpoints = opened(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(at(state, step), {})
    assert sorted(os.listdir(tmp_path)) == ["2", "3"]
    assert int(opened(tmp_path).restore(like).state.step) == 3


def test_a_step_is_saved_once(tmp_path, built):
    _, state = built
    checkpoints = opened(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.save(at(state, 1), {})
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("saved", "restored"),
    [
        (MeshConfig(data=1, fsdp=4), MeshConfig(data=1, fsdp=2, tensor=2)),
        (MeshConfig(data=1, fsdp=2, tensor=2), MeshConfig(data=4)),
    ],
)
def test_it_comes_back_on_another_mesh(tmp_path, saved, restored):
    _, state = build(saved)
    opened(tmp_path).save(at(state, 1), {})
    like, _ = build(restored)
    back = opened(tmp_path).restore(like).state
    assert_equal(back, at(state, 1))
    assert jax.tree.map(lambda leaf: leaf.sharding, back) == jax.tree.map(
        lambda leaf: leaf.sharding, like
    )


def test_a_killed_save_leaves_the_one_before(tmp_path, built):
    like, state = built
    checkpoints = opened(tmp_path)
    checkpoints.save(at(state, 1), {"next_index": 1})
    # What a kill leaves: everything written, nothing renamed.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    again = opened(tmp_path)
    assert again.restore(like).data_state == {"next_index": 1}
    again.save(at(state, 2), {})
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def torn(place):
    for file in (place / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "harm",
    [
        torn,
        lambda place: shutil.rmtree(place / "state"),
        lambda place: shutil.rmtree(place / "run"),
        lambda place: (place / "run" / "metadata").write_text("{"),
        lambda place: (place / "state" / "_METADATA").unlink(),
        lambda place: [file.unlink() for file in place.rglob("*") if file.is_file()],
    ],
)
def test_an_unreadable_checkpoint_gives_way_to_the_one_before(tmp_path, built, harm):
    like, state = built
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(at(state, step), {"next_index": step})
    harm(tmp_path / "2")
    again = opened(tmp_path)
    restored = again.restore(like)
    assert_equal(restored.state, at(state, 1))
    assert restored.data_state == {"next_index": 1}
    (line,) = restored.skipped
    assert line.startswith(f"{tmp_path}/2: cannot be read")
    again.save(at(state, 2), {"next_index": 2})
    assert opened(tmp_path).restore(like).data_state == {"next_index": 2}
    assert (tmp_path / "unreadable-2").exists()


def test_when_none_can_be_read_nothing_is_begun_anew(tmp_path, built):
    like, state = built
    opened(tmp_path).save(at(state, 1), {})
    torn(tmp_path / "1")
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path).restore(like)
    assert (tmp_path / "1").exists()


def test_another_run_is_refused_by_name(tmp_path, built):
    like, state = built
    fingerprint = {"seed": 0, "student.layers": 10, "train.optimizer.b1": 0.9}
    opened(tmp_path, **fingerprint).save(at(state, 1), {})
    assert opened(tmp_path, **fingerprint).restore(like)
    with pytest.raises(UserError) as caught:
        opened(tmp_path, **{**fingerprint, "seed": 1, "student.layers": 12}).restore(like)
    seed, layers, cure = caught.value.lines
    assert seed == f"{tmp_path}/1: was written with seed = 0, not 1."
    assert "student.layers = 10, not 12" in layers
    assert "another run folder" in cure


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"embed": 12}, "`params.w` is float32[8, 4], and this config makes it float32[12, 4]"),
        ({"optimizer": AdamW(clip_norm=None)}, "`opt_state."),
    ],
)
def test_other_shapes_are_refused_by_name(tmp_path, built, other, named):
    _, state = built
    opened(tmp_path).save(at(state, 1), {})
    like, _ = build(**other)
    with pytest.raises(UserError) as caught:
        opened(tmp_path).restore(like)
    assert any(named in line for line in caught.value.lines)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, built, capfd):
    like, state = built
    checkpoints = opened(tmp_path)
    checkpoints.save(at(state, 1), {"next_index": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(UserError) as caught:
            checkpoints.save(at(state, 2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}/2: the checkpoint could not be written")
    assert "File too large" in line
    assert f"the last good one is {tmp_path}/1" in line
    assert "Traceback" not in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["1"]
    assert opened(tmp_path).restore(like).data_state == {"next_index": 1}
    checkpoints.save(at(state, 2), {"next_index": 2})
    assert opened(tmp_path).restore(like).data_state == {"next_index": 2}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no checkpoint can be written here"):
        opened(tmp_path / "file" / "checkpoints")
