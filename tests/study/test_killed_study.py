"""A study that is killed again and again ends in the same files as one that is not."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from untimed import untimed

from jaxdistill.study.process_runner import lock_folder

IN_ONE_PROCESS = """
import sys
from jaxdistill import cli
from jaxdistill.study.process_runner import ProcessRunner

ProcessRunner.run = lambda self, command: cli.main(command[3:])
sys.exit(cli.main(sys.argv[1:]))
"""
"""Trains all runs in the process of the study, so that nothing can get lost between processes."""


def kill(process: subprocess.Popen[bytes], victim: str) -> None:
    """Kill the study, its current run, or both, if they are alive."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, check=False
    )
    pids = [process.pid] if victim != "run" else []
    if victim != "study":
        pids += map(int, listed.stdout.split())
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def results(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the result file of each finished run, with its inode and modification time."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*/result.json")
    }


@pytest.mark.slow
def test_a_killed_study_continues_to_the_same_tables(workspace, start_study):
    cache = {"XDG_CACHE_HOME": str(workspace / "cache")}
    study = ["study", str(workspace / "study.yaml")]
    whole = subprocess.Popen(
        [sys.executable, "-c", IN_ONE_PROCESS, *study, f"output={workspace / 'whole'}"],
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
    )
    assert whole.stdout is not None
    whole.stdout.close()  # the work goes on without a reader
    generator = random.Random(seed := int.from_bytes(os.urandom(4)))
    history = [f"seed {seed}"]
    finished: dict[Path, tuple[int, int]] = {}
    for _ in range(8):
        process, output = start_study()
        while b"[" not in output.read_bytes():  # before it trains there is nothing to lose
            assert process.poll() is None, output.read_text()
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 12))
        kill(process, victim := generator.choice(["study", "run", "both"]))
        process.wait()
        reached = sorted(path.parent.name for path in results(workspace / "study"))
        history.append(f"{victim} killed with {reached} finished: {output.read_text()}")
        assert finished.items() <= results(workspace / "study").items(), history
        finished = results(workspace / "study")

    process, output = start_study()
    assert process.wait(timeout=300) == 0, (history, output.read_text())
    assert finished.items() <= results(workspace / "study").items(), history
    assert whole.wait(timeout=300) == 0
    assert untimed(workspace / "study") == untimed(workspace / "whole"), history
    assert len(results(workspace / "study")) == 4
    for run in workspace.glob("study/*-*"):
        assert (run / "report" / "index.html").is_file(), history


def test_a_signal_stops_the_run_and_the_study(workspace, start_study):
    process, output = start_study("seeds=[0]")
    while not (workspace / "study" / "teacher-0" / "metrics.jsonl").is_file():
        assert process.poll() is None, output.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    text = output.read_text()
    assert text.endswith("Stopped in run 1 of 2. The same command continues from there.\n")
    assert "Traceback" not in text
    assert not (workspace / "study" / "table.md").exists()
    with lock_folder(workspace / "study", lambda: pytest.fail("a run is still there")):
        pass
