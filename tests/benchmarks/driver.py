"""Runs ours and its peer in turn, each in a process of its own, and tells how they compare."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from cases import CASES, LATER, Case, parse
from picture import draw_ratios

from jaxdistill.files import whole_file
from jaxdistill.report import standalone

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Measured:
    """One program, over all rounds.

    Attributes:
        speed: Units a second, by the median of all repeats.
        slowest: By the slowest of them.
        fastest: By the fastest.
        peak_bytes: The most memory that any round held at once.
    """

    speed: float
    slowest: float
    fastest: float
    peak_bytes: int


def main() -> None:
    """Measures the cases that were asked for, and writes what came of them."""
    chosen, rounds = parse()
    found = {}
    for name in chosen:
        found[name] = _compare(CASES[name], rounds)
        sys.stdout.write(_line(CASES[name], *found[name]) + "\n")
        sys.stdout.flush()
    if len(chosen) == len(CASES):
        _write(found, rounds)


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
    speeds = [rounds[0][1] / second for second in (statistics.median(seconds), *sorted(seconds))]
    return Measured(speeds[0], speeds[-1], speeds[1], max(peak for *_, peak in rounds))


def _line(case: Case, ours: Measured, theirs: Measured) -> str:
    faster, smaller = ours.speed / theirs.speed, ours.peak_bytes / theirs.peak_bytes
    marks = []
    if case.speed is not None:
        marks.append(f"{'met' if faster >= case.speed else 'missed'} (≥ {case.speed:.3g} ×)")
    if case.memory is not None:
        marks.append(f"{'met' if smaller <= case.memory else 'missed'} (≤ {case.memory:g} ×)")
    cells = [
        case.work,
        case.peer[1],
        _spread(ours),
        _spread(theirs),
        f"{faster:.2f} ×",
        f"{ours.peak_bytes / 2**30:.2f}",
        f"{theirs.peak_bytes / 2**30:.2f}",
        f"{smaller:.2f} ×",
        ", ".join(marks) or "none",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(found: Measured) -> str:
    """The median, and what the repeats lay between."""
    return f"{_number(found.speed)} ({_number(found.slowest)}–{_number(found.fastest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _write(found: dict[str, tuple[Measured, Measured]], rounds: int) -> None:
    head = ["work", "beside", "ours, units/s", "theirs", "speed", "ours, GiB", "theirs", "memory"]
    lines = [f"| {' | '.join([*head, 'marks'])} |", "|---" * (len(head) + 1) + "|"]
    lines += [_line(CASES[name], *pair) for name, pair in found.items()]
    lines += [f"| {work} | {peer} |{' – |' * 6} to come ({marks}) |" for work, peer, marks in LATER]
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.check_output(command, text=True, cwd=ROOT).strip()
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"`tests/benchmarks/run.sh --rounds {rounds}`, {date.today()}, commit {commit}, "
            f"{os.cpu_count()} CPU cores, float32. Units: tokens, rows or starts; medians of all "
            "repeats (slowest–fastest), programs run in turn, memory is the peak of the process.",
            "",
            *lines,
            "",
            "![speed beside each peer](benchmarks.svg)",
            "",
            "[performance.md](performance.md) tells where the time goes and why marks were missed.",
            "",
        ]
    )
    with whole_file(ROOT / "docs" / "benchmarks.md") as file:
        file.write_text(text, encoding="utf-8")
    ratios = {CASES[n].work: ours.speed / theirs.speed for n, (ours, theirs) in found.items()}
    with whole_file(ROOT / "docs" / "benchmarks.svg") as file:
        file.write_text(standalone(draw_ratios(ratios)), encoding="utf-8")


if __name__ == "__main__":
    main()
