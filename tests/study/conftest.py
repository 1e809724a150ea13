"""Fixtures: a study of two arms and two seeds, whose runs take seconds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

RUN = """
output: unused
student: {{model: {folder}/teacher, layers: 1}}
teacher: {{model: {folder}/teacher, type: online}}
data: {{sources: {folder}/rows.jsonl, heldout: 0.3, length: 48}}
objectives: [{{type: forward_kl}}]
train: {{steps: 3, batch_size: 2, log_every_steps: 2, save_every_steps: 1}}
evaluation: {{samples: 0}}
"""
STUDY = """
question: Which is better?
run: run.yaml
output: {folder}/study
common: {{train.steps: 4}}
baseline: labels
seeds: [0, 1]
arms:
  teacher: {{}}
  labels: {{objectives: [{{type: cross_entropy}}]}}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return a folder with `study.yaml` and all files that it needs."""
    tiny.model_folder(tmp_path / "teacher", num_hidden_layers=2)
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(RUN.format(folder=tmp_path))
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
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
