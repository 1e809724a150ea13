"""Runs ours and its peer in turn, each in a process of its own, and tells how they compare."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from cases import CASES, Case, parse
from table import Measured, Row, keep, line

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    """Measures the cases that were asked for, and writes what came of them."""
    chosen, rounds = parse()
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.check_output(command, text=True, cwd=ROOT).strip()
    for name in chosen:
        ours, theirs = _compare(CASES[name], rounds)
        row = Row(commit, str(date.today()), rounds, ours, theirs)
        sys.stdout.write(line(CASES[name], row) + "\n")
        sys.stdout.flush()
        keep(name, row)


def _compare(case: Case, rounds: int) -> tuple[Measured, Measured]:
    script, peer = case.peer
    commands = [
        [str(ROOT / ".benchmarks" / name / "bin" / "python"), str(HERE / program)]
        for name, program in (("ours", f"ours/{case.ours}"), (peer, f"peers/{script}"))
    ]
    results = ([], [])
    for _ in range(rounds):
        for result, command in zip(results, commands, strict=True):
            result.append(_run([*command, *case.argument.split()]))
    ours, theirs = map(_summed, results)
    return ours, theirs


def _run(command: list[str]) -> tuple[list[float], int, int]:
    """Seconds of each repeat, what a repeat gets done, and the peak of the process's memory."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=output, stderr=complaints, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaints.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{complaints.read()[-2000:]}")
        output.seek(0)
        said = json.loads(output.read().splitlines()[-1])
    return said["seconds"], said["units"], usage.ru_maxrss * 1024


def _summed(rounds: list[tuple[list[float], int, int]]) -> Measured:
    seconds = [second for repeats, _, _ in rounds for second in repeats]
    speed, fastest, slowest = (
        rounds[0][1] / second for second in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return Measured(speed, (slowest, fastest), max(peak for *_, peak in rounds))


if __name__ == "__main__":
    main()
