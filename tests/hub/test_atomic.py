"""A failed export leaves what was there before."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import pytest
from hf_models import save_hf_model

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.files import atomic_directory


@pytest.fixture
def model(tmp_path: Path) -> hub.Pretrained:
    return hub.load(save_hf_model("llama", tmp_path / "original", tokenizer=True))


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Make writes fail beyond this file size, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_replaces_an_older_model(model: hub.Pretrained, tmp_path: Path) -> None:
    target = tmp_path / "models" / "student"
    hub.save(model, target, max_shard_bytes=20_000)
    assert len(list(target.glob("*.safetensors"))) > 2
    hub.save(model, target)
    assert len(list(target.glob("*.safetensors"))) == 1
    assert not (target / "model.safetensors.index.json").exists()
    assert [path.name for path in target.parent.iterdir()] == ["student"]


# The limits hit the weights, or the tokenizer, which a library in Rust writes.
@pytest.mark.parametrize("format", ["safetensors", "torch"])
@pytest.mark.parametrize("num_bytes", [0, 50, 5_000, 40_000])
def test_a_full_disk_leaves_the_older_model_unchanged(
    model: hub.Pretrained, tmp_path: Path, num_bytes: int, format: str
) -> None:
    target = tmp_path / "models" / "student"
    hub.save(model, target)
    before = contents(target)
    with files_up_to(num_bytes), pytest.raises(UserError, match="the disk is full"):
        hub.save(model, target, format=format)
    assert contents(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["student"]


def test_a_full_disk_while_the_tokenizer_is_written(model: hub.Pretrained, tmp_path: Path) -> None:
    # With weight files of 5 kB the tokenizer is the largest file.
    with files_up_to(14_000), pytest.raises(UserError, match="the disk is full"):
        hub.save(model, tmp_path / "student", max_shard_bytes=5_000, dtype="bfloat16")
    assert not (tmp_path / "student").exists()


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_directory(tmp_path / "student") as folder:
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_an_export_removes_leftovers_of_a_killed_one(tmp_path: Path) -> None:
    target = tmp_path / "student"
    leftovers = [".student.0123abcd.unfinished", ".student.0123abcd.replaced"]
    others = [".student.mine.unfinished", ".student2.0123abcd.unfinished", ".student.0123abcd"]
    for name in (*leftovers, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("")
    with atomic_directory(target) as folder:
        (folder / "config.json").write_text("{}")
        # Without a target, this would be the last complete model.
        assert (tmp_path / leftovers[1]).exists()
        assert not (tmp_path / leftovers[0]).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"student", *others}


def test_folders_with_other_files_are_not_replaced(model: hub.Pretrained, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"original, thesis\.txt"):
        hub.save(model, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_paths_that_cannot_be_written_are_refused(model: hub.Pretrained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        hub.save(model, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        hub.save(model, tmp_path / "file" / "student")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "original"]


def test_exporting_values_too_large_for_float16_fails(
    model: hub.Pretrained, tmp_path: Path
) -> None:
    large = {**model.params, "final_norm": {"scale": jnp.full(24, 1e6)}}
    with pytest.raises(UserError, match=r"model\.norm\.weight: 1e\+06 is too large"):
        hub.save(
            hub.Pretrained(**{**vars(model), "params": large}), tmp_path / "x", dtype="float16"
        )
    assert not (tmp_path / "x").exists()
