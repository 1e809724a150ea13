"""Running what a study still lacks, one run at a time, and writing what came of it."""

import csv
import io
import signal
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import rich

from jaxdistill.errors import INTERRUPTED, UserError
from jaxdistill.files import whole_file
from jaxdistill.report import draw_intervals, standalone
from jaxdistill.study.config import Member, StudyConfig, members
from jaxdistill.study.table import Outcome, markdown, outcomes, records


def run(study: StudyConfig, path: str | Path) -> int:
    """Train every arm with every seed that is not there yet, then compare them.

    Each run is a process of its own, which continues where it was left; so does the study.

    Args:
        study: The study.
        path: Its file: the run's config is named relative to it.

    Returns:
        0, or 130 when a signal ended a run early.

    Raises:
        UserError: when a config is wrong, a run fails, or runs cannot be compared.
    """
    runs = members(study, path)
    console = rich.get_console()
    for number, member in enumerate(runs, start=1):
        line = f"[{number}/{len(runs)}] {member.arm}, seed {member.seed}"
        console.print(line, markup=False, highlight=False)
        code = _train(member)
        if code == INTERRUPTED:
            return code
        if code:
            raise UserError(
                f"arm `{member.arm}`, seed {member.seed}: the run ended with exit code {code}; "
                "what it said stands above. The same command goes on with it."
            )
    _write(study, outcomes(study, runs))
    console.print((Path(study.output) / "table.md").read_text(), markup=False, highlight=False)
    return 0


def _train(member: Member) -> int:
    """One run, whose exit code is handed on, and which hears of every signal that comes here."""
    command = [sys.executable, "-m", "jaxdistill", "train", str(member.source), *member.overrides]
    before = {}
    # A session of its own: the terminal's Ctrl-C would reach the run twice.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.signal(number, lambda sent, _: process.send_signal(sent))
                before[number] = handler
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _write(study: StudyConfig, found: list[Outcome]) -> None:
    """`table.md`, `table.csv` and a plot of each quantity."""
    folder = Path(study.output)
    with whole_file(folder / "table.md") as file:
        file.write_text(markdown(study, found), encoding="utf-8")
    lines = records(study, found)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    with whole_file(folder / "table.csv") as file:
        file.write_text(text.getvalue(), encoding="utf-8")
    for name in study.quantities:
        intervals = {outcome.arm: astuple(outcome.values[name]) for outcome in found}
        with whole_file(folder / f"{name}.svg") as file:
            file.write_text(standalone(draw_intervals(name, intervals)), encoding="utf-8")
