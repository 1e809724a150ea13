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
    Elapsed,
    Fingerprint,
    abstract_state,
    init_state,
    saved_fingerprint,
    state_shardings,
)

AXES = {"w": ("embed", "mlp"), "layers": {"scale": ("layers", "embed")}}


def build(mesh_config=None, *, embed=8, optimizer=AdamW(), seed=0):  # noqa: B008
    """Return the template of a state, and a state of random numbers."""
    mesh = make_mesh(mesh_config or MeshConfig())
    params = {"w": jnp.zeros((embed, 4)), "layers": {"scale": jnp.zeros((2, embed))}}
    specs = {"w": PartitionSpec("fsdp", "tensor"), "layers": {"scale": PartitionSpec()}}
    param_shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    transform = optimizer.make_optimizer(100, AXES)
    shardings = state_shardings(mesh, params, param_shardings, transform)
    template = abstract_state(params, transform, shardings)
    random = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: (100 * random.normal(size=leaf.shape)).astype(leaf.dtype),
        init_state(params, transform, shardings),
    )
    return template, jax.device_put(state, shardings)


def at_step(state, step):
    return dataclasses.replace(state, step=jnp.full_like(state.step, step))


def open_checkpoints(directory, *, keep=2, **fingerprint):
    return Checkpoints(directory, keep=keep, fingerprint=Fingerprint(fingerprint))


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope="module")
def built():
    return build()


def test_checkpoint_is_restored_bit_for_bit(tmp_path, built):
    template, state = built
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest_step is None
    assert checkpoints.restore(template) is None
    checkpoints.save(at_step(state, 5), {"next_index": 17}, Elapsed(1.5, 1.25, 7))
    restored = open_checkpoints(tmp_path).restore(template)
    assert restored.elapsed == Elapsed(1.5, 1.25, 7)
    assert_equal(restored.state, at_step(state, 5))
    assert restored.data_state == {"next_index": 17}
    assert restored.skipped == ()


def test_checkpoint_without_elapsed_times_is_restored(tmp_path, built):
    template, state = built
    open_checkpoints(tmp_path).save(state, {})
    (tmp_path / str(int(state.step)) / "checksums.json").unlink()
    path = tmp_path / str(int(state.step)) / "run" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "effort": {}}))
    assert open_checkpoints(tmp_path).restore(template).elapsed == Elapsed()


def test_checkpoint_holds_only_the_state(tmp_path, built):
    _, state = built
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    written = json.loads((tmp_path / "1" / "state" / "_METADATA").read_text())["tree_metadata"]
    roots = {ast.literal_eval(name)[0] for name in written}
    assert roots == {"step", "params", "opt_state"}


def test_newest_checkpoints_are_kept_and_the_last_is_read(tmp_path, built):
    template, state = built
    checkpoints = open_checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(at_step(state, step), {})
    assert sorted(os.listdir(tmp_path)) == ["2", "3"]
    assert int(open_checkpoints(tmp_path).restore(template).state.step) == 3


def test_step_is_saved_once(tmp_path, built):
    _, state = built
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(at_step(state, 1), {})
    checkpoints.save(at_step(state, 1), {})
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("saved", "restored"),
    [
        (MeshConfig(data=1, fsdp=4), MeshConfig(data=1, fsdp=2, tensor=2)),
        (MeshConfig(data=1, fsdp=2, tensor=2), MeshConfig(data=4)),
    ],
)
def test_checkpoint_is_restored_on_another_mesh(tmp_path, saved, restored):
    _, state = build(saved)
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    template, _ = build(restored)
    actual = open_checkpoints(tmp_path).restore(template).state
    assert_equal(actual, at_step(state, 1))
    assert jax.tree.map(lambda leaf: leaf.sharding, actual) == jax.tree.map(
        lambda leaf: leaf.sharding, template
    )


def test_killed_save_leaves_the_previous_checkpoint(tmp_path, built):
    template, state = built
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(at_step(state, 1), {"next_index": 1})
    # A kill may leave a checkpoint that is complete but not renamed.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    reopened = open_checkpoints(tmp_path)
    assert reopened.restore(template).data_state == {"next_index": 1}
    reopened.save(at_step(state, 2), {})
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def truncate_arrays(path):
    for file in (path / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)


def flip_bit(path):
    """Flip one bit in the middle of the largest data file."""
    file = max((path / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def change_run(**changes):
    """Change JSON of a checkpoint of an older version, which has no checksums."""

    def damage(path):
        (path / "checksums.json").unlink()
        file = path / "run" / "metadata"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flip_bit,
        change_run(fingerprint=[]),
        change_run(effort={"seconds": []}),
        change_run(effort=7),
        change_run(data=[1]),
        change_run(data={"next_index": "1"}),
        change_run(data={"next_index": None}),
        lambda path: (path / "run" / "metadata").write_text("[]"),
        lambda path: (path / "checksums.json").write_text("{"),
        truncate_arrays,
        lambda path: shutil.rmtree(path / "state"),
        lambda path: shutil.rmtree(path / "run"),
        lambda path: (path / "run" / "metadata").write_text("{"),
        lambda path: (path / "state" / "_METADATA").unlink(),
        lambda path: [file.unlink() for file in path.rglob("*") if file.is_file()],
    ],
)
def test_unreadable_checkpoint_is_skipped_for_the_previous_one(tmp_path, built, damage):
    template, state = built
    checkpoints = open_checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(at_step(state, step), {"next_index": step})
    damage(tmp_path / "2")
    reopened = open_checkpoints(tmp_path)
    restored = reopened.restore(template, {"next_index": 0})
    assert_equal(restored.state, at_step(state, 1))
    assert restored.data_state == {"next_index": 1}
    (line,) = restored.skipped
    assert line.startswith(f"{tmp_path}/2: cannot be read")
    reopened.save(at_step(state, 2), {"next_index": 2})
    assert open_checkpoints(tmp_path).restore(template).data_state == {"next_index": 2}
    assert (tmp_path / "unreadable-2").exists()


def test_checkpoint_is_damaged_again_after_it_was_written_anew(tmp_path, built):
    template, state = built
    for damaged_times in range(3):
        checkpoints = open_checkpoints(tmp_path)
        for step in (1, 2):
            checkpoints.save(at_step(state, step), {})
        truncate_arrays(tmp_path / "2")
        restored = open_checkpoints(tmp_path).restore(template)
        assert int(restored.state.step) == 1
        assert len(restored.skipped) == 1
        assert len(list(tmp_path.glob("unreadable-2*"))) == damaged_times + 1


def test_checksum_names_the_damaged_file(tmp_path):
    """Orbax alone often restores other numbers without a word."""
    template, state = build(embed=4096)
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    flip_bit(tmp_path / "1")
    with pytest.raises(UserError, match=r"1: cannot be read \(state/\S*d/\w+ is not as it was"):
        open_checkpoints(tmp_path).restore(template)


def test_checkpoint_without_checksums_is_restored(tmp_path, built):
    template, state = built
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    (tmp_path / "1" / "checksums.json").unlink()
    assert_equal(open_checkpoints(tmp_path).restore(template).state, at_step(state, 1))


def test_no_new_run_starts_if_no_checkpoint_can_be_read(tmp_path, built):
    template, state = built
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    truncate_arrays(tmp_path / "1")
    with pytest.raises(UserError, match="cannot be read"):
        open_checkpoints(tmp_path).restore(template)
    assert (tmp_path / "1").exists()


def test_changed_fingerprint_is_refused_by_field(tmp_path, built):
    template, state = built
    fingerprint = {"seed": 0, "student.layers": 10, "train.optimizer.b1": 0.9}
    open_checkpoints(tmp_path, **fingerprint).save(at_step(state, 1), {})
    assert open_checkpoints(tmp_path, **fingerprint).restore(template)
    with pytest.raises(UserError) as caught:
        open_checkpoints(tmp_path, **{**fingerprint, "seed": 1, "student.layers": 12}).restore(
            template
        )
    seed, layers, cure = caught.value.lines
    assert seed == f"{tmp_path}/1: was written with seed = 0, not 1."
    assert "student.layers = 10, not 12" in layers
    assert "another run folder" in cure


def test_fingerprint_is_read_without_arrays_from_the_newest_readable_checkpoint(tmp_path, built):
    _, state = built
    assert saved_fingerprint(tmp_path) is None
    checkpoints = open_checkpoints(tmp_path, seed=3)
    for step in (2, 10):
        checkpoints.save(at_step(state, step), {})
    assert saved_fingerprint(tmp_path) == (tmp_path / "10", {"seed": 3})
    (tmp_path / "10" / "run" / "metadata").write_text('{"fingerprint": 1}')
    assert saved_fingerprint(tmp_path) == (tmp_path / "2", {"seed": 3})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embed": 12}, "`params.w` is float32[8, 4], and this config makes it float32[12, 4]"),
        ({"optimizer": AdamW(clip_norm=None)}, "`opt_state."),
    ],
)
def test_changed_shapes_are_refused_by_array(tmp_path, built, changes, expected):
    _, state = built
    open_checkpoints(tmp_path).save(at_step(state, 1), {})
    template, _ = build(**changes)
    with pytest.raises(UserError) as caught:
        open_checkpoints(tmp_path).restore(template)
    assert any(expected in line for line in caught.value.lines)


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path, built, capfd):
    template, state = built
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(at_step(state, 1), {"next_index": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(UserError) as caught:
            checkpoints.save(at_step(state, 2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}/2: the checkpoint could not be written")
    assert "File too large" in line
    assert f"the last good one is {tmp_path}/1" in line
    assert "Traceback" not in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["1"]
    assert open_checkpoints(tmp_path).restore(template).data_state == {"next_index": 1}
    checkpoints.save(at_step(state, 2), {"next_index": 2})
    assert open_checkpoints(tmp_path).restore(template).data_state == {"next_index": 2}


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no checkpoint can be written here"):
        open_checkpoints(tmp_path / "file" / "checkpoints")
