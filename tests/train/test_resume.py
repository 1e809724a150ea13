"""A run that is killed and started again is the run that was never killed."""

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
        # As in real runs: what the killed process compiled serves the one that goes on.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
    }
    folder.mkdir(exist_ok=True)
    with (folder / "errors.txt").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, tiny_run.__file__, str(folder), str(pause_seconds)],
            env=env,
            stderr=errors,
        )


def untimed(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def last_step(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    return max(whole, default=0)


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    kill_after = random.Random(os.getpid()).randrange(3, tiny_run.STEPS - 2)
    undisturbed, killed = start(whole), start(broken, pause_seconds=0.3)
    while last_step(broken) < kill_after:
        assert killed.poll() is None, (broken / "errors.txt").read_text()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (broken / "params.npz").exists(), "it was meant to be killed before its end"

    for folder, process in ((whole, undisturbed), (broken, start(broken))):
        assert process.wait(timeout=300) == 0, (folder / "errors.txt").read_text()

    assert untimed(broken) == untimed(whole), f"killed after step {kill_after}"
    assert len(untimed(whole)) == tiny_run.STEPS + tiny_run.STEPS // 2
    with np.load(whole / "params.npz") as one, np.load(broken / "params.npz") as other:
        assert set(one.files) == set(other.files)
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
