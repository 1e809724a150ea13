"""A killed and resumed run equals an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tiny_run


def start(folder, pause_seconds=0.0):
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
    }
    folder.mkdir(exist_ok=True)
    with (folder / "errors.txt").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, tiny_run.__file__, str(folder), str(pause_seconds)],
            env=env,
            stderr=errors,
        )


def records_without_times(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def last_step(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    return max(steps, default=0)


def test_killed_run_continues_to_the_same_bits(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    kill_after = random.Random(os.getpid()).randrange(3, tiny_run.STEPS - 2)
    # As in real runs, later processes use the programs that the killed one compiled (conftest.py).
    killed = start(resumed, pause_seconds=0.3)
    while last_step(resumed) < kill_after:
        assert killed.poll() is None, (resumed / "errors.txt").read_text()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (resumed / "params.npz").exists(), "the run ended before it could be killed"

    for folder, process in ((whole, start(whole)), (resumed, start(resumed))):
        assert process.wait(timeout=300) == 0, (folder / "errors.txt").read_text()

    assert records_without_times(resumed) == records_without_times(whole), (
        f"killed after step {kill_after}"
    )
    assert len(records_without_times(whole)) == tiny_run.STEPS + tiny_run.STEPS // 2
    with np.load(whole / "params.npz") as expected, np.load(resumed / "params.npz") as actual:
        assert set(actual.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
