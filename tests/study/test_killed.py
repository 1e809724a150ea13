"""A study that is killed, again and again, is the study that was never killed."""

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
from jaxdistill.study.process_runner import Processes

Processes.run = lambda self, command: cli.main(command[3:])
sys.exit(cli.main(sys.argv[1:]))
"""
"""Trains all runs where the study is: nothing is handed on between processes, or lost there."""


def kill(process: subprocess.Popen[bytes], victim: str) -> None:
    """Kills the study, the run that it trains, or both, if they still live."""
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
    """The finished runs, and when each was."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*/result.json")
    }


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_tables(place, start):
    cache = {"XDG_CACHE_HOME": str(place / "cache")}
    study = ["study", str(place / "study.yaml")]
    whole = subprocess.Popen(
        [sys.executable, "-c", IN_ONE_PROCESS, *study, f"output={place / 'whole'}"],
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
    )
    assert whole.stdout is not None
    whole.stdout.close()  # nobody reads along, and the work goes on
    chance = random.Random(seed := int.from_bytes(os.urandom(4)))
    history = [f"seed {seed}"]
    finished: dict[Path, tuple[int, int]] = {}
    for _ in range(8):
        process, said = start()
        while b"[" not in said.read_bytes():  # until it trains it has nothing to lose
            assert process.poll() is None, said.read_text()
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 12))
        kill(process, victim := chance.choice(["study", "run", "both"]))
        process.wait()
        reached = sorted(path.parent.name for path in results(place / "study"))
        history.append(f"{victim} killed with {reached} finished: {said.read_text()}")
        assert finished.items() <= results(place / "study").items(), history
        finished = results(place / "study")

    process, said = start()
    assert process.wait(timeout=300) == 0, (history, said.read_text())
    assert finished.items() <= results(place / "study").items(), history
    assert whole.wait(timeout=300) == 0
    assert untimed(place / "study") == untimed(place / "whole"), history
    assert len(results(place / "study")) == 4
    for run in place.glob("study/*-*"):
        assert (run / "report" / "index.html").is_file(), history


def test_a_signal_stops_the_run_and_the_study(place, start):
    process, said = start("seeds=[0]")
    while not (place / "study" / "teacher-0" / "metrics.jsonl").is_file():
        assert process.poll() is None, said.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert said.read_text().endswith("Stopped in run 1 of 2. The same command goes on there.\n")
    assert "Traceback" not in said.read_text()
    assert not (place / "study" / "table.md").exists()
    with lock_folder(place / "study", lambda: pytest.fail("a run is left")):
        pass
