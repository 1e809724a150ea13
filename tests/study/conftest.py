"""Fixtures: a study of two arms and two seeds, whose runs take seconds.

Paths are relative: a copy of a study is a study.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import jaxdistill

RUN = """
output: unused
student: {model: teacher, layers: 1}
teacher: {model: teacher, type: online}
data: {sources: rows.jsonl, heldout: 0.3, length: 48}
objectives: [{type: forward_kl}]
train: {steps: 3, batch_size: 2, log_every_steps: 2, save_every_steps: 1}
evaluation: {batch_size: 4, samples: 0, speed: false}
"""
STUDY = """
question: Which is better?
run: run.yaml
output: study
common: {train.steps: 4}
baseline: labels
seeds: [0, 1]
arms:
  teacher: {}
  labels: {objectives: [{type: cross_entropy}]}
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, to be copied."""
    folder = tmp_path_factory.mktemp("study")
    tiny.model_folder(folder / "teacher", num_hidden_layers=3)
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(RUN)
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create and enter a folder with `study.yaml` and all files that it needs."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(jaxdistill.__file__).parents[1]))
    return tmp_path


@pytest.fixture
def start_study(workspace: Path):
    """Yield a function that starts the study: it returns the process and its output file."""
    processes = []

    def start(*overrides: str) -> tuple[subprocess.Popen[bytes], Path]:
        output = workspace / f"output-{len(processes)}.txt"
        # A shell's `&` makes processes ignore Ctrl-C, and so would the study inherit.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxdistill", "study", workspace / "study.yaml", *overrides],
                env={**os.environ, "XDG_CACHE_HOME": str(workspace / "cache")},
                stdout=file,  # not a pipe, which a run left behind would hold open
                stderr=file,
            )
        signal.signal(signal.SIGINT, previous)
        processes.append(process)
        return process, output

    yield start
    for process in processes:
        process.kill()
        process.wait()
