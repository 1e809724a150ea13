"""A study of two arms and two seeds, whose runs take seconds."""

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
baseline: words
seeds: [0, 1]
arms:
  teacher: {{}}
  words: {{objectives: [{{type: cross_entropy}}]}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `study.yaml` and all that it needs."""
    tiny.model_folder(tmp_path / "teacher", num_hidden_layers=2)
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(RUN.format(folder=tmp_path))
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    return tmp_path


@pytest.fixture
def start(place: Path):
    """Starts the study, with overrides: its process, and the file of what it says."""
    started = []

    def study(*overrides: str) -> tuple[subprocess.Popen[bytes], Path]:
        said = place / f"said-{len(started)}.txt"
        # What a shell starts with `&` ignores Ctrl-C, and so would all that it starts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxdistill", "study", place / "study.yaml", *overrides],
                env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")},
                stdout=file,  # no pipe, which a run that is left behind would hold open
                stderr=file,
            )
        signal.signal(signal.SIGINT, before)
        started.append(process)
        return process, said

    yield study
    for process in started:
        process.kill()
        process.wait()
