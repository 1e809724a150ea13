"""Run each case: jaxdistill and its peer alternate, each in its own process and environment."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

from cases import CASES, Case, parse_arguments
from table import Comparison, Measurement, format_row, save_comparison

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class ProgramRun(NamedTuple):
    """Result of one process.

    Attributes:
        seconds: Time of each repeat.
        units: Tokens, positions or starts per repeat.
        peak_bytes: Peak memory of the process.
    """

    seconds: list[float]
    units: int
    peak_bytes: int


def main() -> None:
    """Run the chosen cases, print a table row for each, and update the docs."""
    names, rounds = parse_arguments()
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.check_output(command, text=True, cwd=ROOT).strip()
    for name in names:
        jaxdistill, peer = _measure(CASES[name], rounds)
        comparison = Comparison(commit, str(date.today()), rounds, jaxdistill, peer)
        sys.stdout.write(format_row(CASES[name], comparison) + "\n")
        sys.stdout.flush()
        save_comparison(name, comparison)


def _measure(case: Case, rounds: int) -> tuple[Measurement, Measurement]:
    """Measure jaxdistill and the peer."""
    programs = (("ours", f"ours/{case.program}"), (case.peer, f"peers/{case.peer_program}"))
    commands = [
        [str(ROOT / ".benchmarks" / environment / "bin" / "python"), str(HERE / program)]
        for environment, program in programs
    ]
    runs = ([], [])
    for _ in range(rounds):
        for side_runs, command in zip(runs, commands, strict=True):
            side_runs.append(_run([*command, *case.arguments.split()]))
    jaxdistill, peer = map(_summarize, runs)
    return jaxdistill, peer


def _run(command: list[str]) -> ProgramRun:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{stderr.read()[-2000:]}")
        stdout.seek(0)
        timings = json.loads(stdout.read().splitlines()[-1])
    return ProgramRun(timings["seconds"], timings["units"], usage.ru_maxrss * 1024)


def _summarize(runs: list[ProgramRun]) -> Measurement:
    seconds = [repeat for run in runs for repeat in run.seconds]
    median, fastest, slowest = (
        runs[0].units / repeat
        for repeat in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return Measurement(median, (slowest, fastest), max(run.peak_bytes for run in runs))


if __name__ == "__main__":
    main()
