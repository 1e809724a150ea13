"""Tiny teachers, rows and a config, for a whole run in seconds.

Tests enter their workspace, and its paths are relative: a copy of a run is a run.
"""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import tiny

import jaxdistill
from jaxdistill.cli import main

# Equal programs are compiled once for all tests: keep the layers, the length, the batch size and
# the number of steps where a test does not need others.
CONFIG = """
output: run
student: {model: teacher, layers: 1}
teacher: {model: teacher, type: online}
data:
  sources: rows.jsonl
  heldout: 0.2
  length: 48
objectives:
- {type: forward_kl, weight: 0.9}
- {type: cross_entropy, weight: 0.1}
train:
  steps: 6
  batch_size: 4
  log_every_steps: 1
  optimizer: {learning_rate: 0.01}
evaluation: {batch_size: 4, samples: 0, speed: false}
"""
FULL_CONFIG = """
base: config.yaml
train: {save_every_steps: 2, keep_checkpoints: 3}
evaluation: {every_steps: 3, samples: 2, max_new_tokens: 6, speed: true}
"""


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    tiny.model_folder(folder / "teacher", num_hidden_layers=3)
    rows = [
        {"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "full.yaml").write_text(FULL_CONFIG)
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create and enter a folder with `teacher/`, `rows.jsonl`, `config.yaml` and `full.yaml`.

    `full.yaml` also evaluates during training, writes samples, measures speed, and saves often.
    """
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(jaxdistill.__file__).parents[1]))
    return tmp_path


@pytest.fixture(scope="session")
def finish_run(template: Path, tmp_path_factory: pytest.TempPathFactory):
    """Train in a new copy of the workspace and return it, with `stdout.txt`; not to be changed."""

    def run(*arguments: str, **files: str) -> Path:
        folder = shutil.copytree(template, tmp_path_factory.mktemp("finished"), dirs_exist_ok=True)
        for name, text in files.items():
            (folder / f"{name}.jsonl").write_text(text)
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as stdout,
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            patch.chdir(folder)
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
            code = main(["train", *arguments])
        assert code == 0, stderr.getvalue()
        (folder / "stdout.txt").write_text(stdout.getvalue())
        return folder

    return run


@pytest.fixture(scope="session")
def finished_run(finish_run) -> Path:
    """A workspace with the finished run of `full.yaml`."""
    return finish_run("full.yaml")


@pytest.fixture
def finished_copy(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create and enter a copy of the workspace of `finished_run`."""
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unfinished_copy(finished_copy: Path) -> Path:
    """Create and enter a copy whose run was killed after its fourth step."""
    run = finished_copy / "run"
    for name in ("checkpoints/6", "student", "report"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    return finished_copy


@pytest.fixture(scope="session")
def other_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.sentencepiece()
    return tiny.model_folder(
        tmp_path_factory.mktemp("other"),
        seed=5,
        reads=tokenizer,
        vocab_size=len(tokenizer) + 9,
        eos_token_id=4,
    )


@pytest.fixture
def other_teacher(other_template: Path, workspace: Path) -> Path:
    """Model with another tokenizer and chat template than `teacher/`, in `other/`."""
    return shutil.copytree(other_template, workspace / "other")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]):
    """Run a command line and return exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        stdout, stderr = capfd.readouterr()
        return code, stdout, stderr

    return run
