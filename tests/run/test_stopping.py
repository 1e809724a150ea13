"""A signal ends a command at once or after its step, never in a traceback, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROLLOUT = ("data.rollout={type: teacher, max_new_tokens: 24, batch_size: 2}",)
# The second signal has to come while a step is on its way.
SLOW_STEPS = (
    "train.steps=1000",
    "train.batch_size=1024",
    "train.save_every_steps=1000",
    "train.log_every_steps=1",
    "evaluation.every_steps=0",
)


@pytest.fixture
def start(place: Path):
    """Starts a run with overrides; whatever is left of it in the end is killed."""
    started = []

    def run(*overrides: str) -> subprocess.Popen[str]:
        # What a shell starts with `&` ignores Ctrl-C, and so would all that it starts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        config = str(place / "config.yaml")
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxdistill", "train", config, *overrides],
            env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _wait_for(process: subprocess.Popen[str], is_there: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not is_there():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "nothing came of the run"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rollout_that_is_stopped_keeps_its_answers(place, command, start, number):
    process = start(*ROLLOUT)
    _wait_for(process, lambda: [*(place / "run").glob("rollout-*.jsonl")])
    process.send_signal(number)
    complained = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert complained.split() == ["Stopped."]
    (answers,) = (place / "run").glob("rollout-*.jsonl")
    kept = answers.read_text()
    assert 0 < kept.count("\n") < 40
    code, _, _ = command("train", place / "config.yaml", *ROLLOUT)
    assert code == 0
    assert answers.read_text().startswith(kept)


def test_a_second_signal_stops_at_once(place, start):
    process = start(*SLOW_STEPS)
    records = place / "run" / "metrics.jsonl"
    _wait_for(process, lambda: records.is_file() and "train/loss" in records.read_text())
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "once more stops at once" not in (line := process.stderr.readline()):
        assert line or process.poll() is None
    process.send_signal(signal.SIGINT)
    complained = process.communicate(timeout=60)[1]
    assert (process.returncode, complained) == (130, "\nStopped.\n")
    assert not [*(place / "run" / "checkpoints").iterdir()]


def test_the_work_goes_on_when_nobody_reads_along(place):
    command = f"{sys.executable} -m jaxdistill train {place}/config.yaml | head -n 1"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, timeout=120)
    assert (place / "run" / "result.json").is_file()


def test_a_home_in_output_is_meant(place, command, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    code, _, _ = command("train", place / "config.yaml", "output=~/elsewhere", "train.steps=1")
    assert code == 0
    assert (place / "elsewhere" / "student" / "config.json").is_file()
