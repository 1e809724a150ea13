"""Tiny teachers, rows and a config, for a whole run in seconds."""

import json
from pathlib import Path

import pytest
import tiny

from jaxdistill.cli import main

CONFIG = """
output: {folder}/run
student: {{model: {folder}/teacher, layers: 1}}
teacher: {{model: {folder}/teacher, type: online}}
data:
  sources: {folder}/rows.jsonl
  heldout: 0.2
  length: 48
objectives:
- {{type: forward_kl, weight: 0.9}}
- {{type: cross_entropy, weight: 0.1}}
train:
  steps: 6
  batch_size: 4
  log_every_steps: 1
  save_every_steps: 2
  optimizer: {{learning_rate: 0.01}}
evaluation: {{every_steps: 3, batch_size: 4, samples: 2, max_new_tokens: 6}}
"""


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Create a folder with `teacher/`, `rows.jsonl` and `config.yaml`."""
    tiny.model_folder(tmp_path / "teacher", num_hidden_layers=3)
    rows = [
        {"prompt": f"What is {n} and {n}? ", "completion": f"It is {2 * n}."} for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path


@pytest.fixture
def other_teacher(workspace: Path) -> Path:
    """Model with another tokenizer and chat template than `teacher/`, in `other/`."""
    tokenizer = tiny.sentencepiece()
    return tiny.model_folder(
        workspace / "other",
        seed=5,
        reads=tokenizer,
        vocab_size=len(tokenizer) + 9,
        eos_token_id=4,
    )


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]):
    """Run a command line and return exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        stdout, stderr = capfd.readouterr()
        return code, stdout, stderr

    return run
