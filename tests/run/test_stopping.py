"""Signals end a command at once or after its step, without a traceback or lost work."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROLLOUT = ("data.rollout={type: teacher, max_new_tokens: 24, batch_size: 2}",)
# Slow enough that the second signal comes during a step.
SLOW_STEPS = (
    "train.steps=1000",
    "train.batch_size=1024",
    "train.save_every_steps=1000",
    "data.heldout=0",
)


@pytest.fixture
def start(workspace: Path):
    """Start a run with overrides; kill what is left of it at the end."""
    processes = []

    def run(*overrides: str) -> subprocess.Popen[str]:
        # A process that a shell started with `&` ignores Ctrl-C, and so would its children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxdistill", "train", "config.yaml", *overrides],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, before)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.02)


def test_stopped_rollout_is_continued_and_finishes_after_its_output_is_closed(workspace, start):
    process = start(*ROLLOUT)
    _wait_for(process, lambda: [*(workspace / "run").glob("rollout-*.jsonl")])
    process.send_signal(signal.SIGTERM)  # below it is Ctrl-C
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr.split() == ["Stopped."]
    (rollout_file,) = (workspace / "run").glob("rollout-*.jsonl")
    kept = rollout_file.read_text()
    assert 0 < kept.count("\n") < 40
    command = shlex.join([sys.executable, "-m", "jaxdistill", "train", "config.yaml", *ROLLOUT])
    command = ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"]
    subprocess.run(command, check=True, timeout=120)
    assert rollout_file.read_text().startswith(kept)
    assert (workspace / "run" / "result.json").is_file()


def test_second_signal_stops_at_once(workspace, start):
    process = start(*SLOW_STEPS)
    records = workspace / "run" / "metrics.jsonl"
    _wait_for(process, lambda: records.is_file() and "train/loss" in records.read_text())
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "once more stops at once" not in (line := process.stderr.readline()):
        assert line or process.poll() is None
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr) == (130, "\nStopped.\n")
    assert not [*(workspace / "run" / "checkpoints").iterdir()]
