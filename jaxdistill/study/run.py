"""Running what a study still lacks, one run at a time, and writing what came of it."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import rich

from jaxdistill.errors import INTERRUPTED, Findings, UserError
from jaxdistill.files import whole_file
from jaxdistill.report import QUANTITIES, draw_intervals, standalone
from jaxdistill.run import check_objectives
from jaxdistill.study.config import Member, StudyConfig, members
from jaxdistill.study.process import Processes, locked
from jaxdistill.study.table import Outcome, markdown, outcomes, records


def run(study: StudyConfig, path: str | Path) -> int:
    """Train every arm with every seed that is not there yet, then compare them.

    Each run is a process of its own, which continues where it was left; so does the study.

    Args:
        study: The study.
        path: Its file: the run's config is named relative to it.

    Returns:
        0, or 130 when a signal ended the study early.

    Raises:
        UserError: when a config is wrong, a run fails, or runs cannot be compared.
    """
    runs = members(study, path)
    _check_arms(runs[: len(study.arms)])
    folder = Path(study.output).expanduser()

    def say_who_waits() -> None:
        _say(f"Another study, or a run that a killed one left, is at work in {folder}: waiting.")

    with locked(folder, say_who_waits) as lock:
        with Processes(lock) as processes:
            for number, member in enumerate(runs, start=1):
                _say(f"[{number}/{len(runs)}] {member.arm}, seed {member.seed}")
                code = processes.run(_command(member))
                if code == INTERRUPTED:
                    _say(f"Stopped in run {number} of {len(runs)}. The same command goes on there.")
                    return code
                if code:
                    raise UserError(
                        f"arm `{member.arm}`, seed {member.seed}: the run ended with exit code "
                        f"{code}; what it said stands above. Where it asks for another `output`, "
                        "name another for the study. Mended, the same command goes on with it."
                    )
        _write(study, folder, outcomes(study, runs))
    _say((folder / "table.md").read_text(encoding="utf-8"))
    return 0


def _check_arms(runs: Sequence[Member]) -> None:
    """See that arms which have no run yet can have one: the last would tell after hours."""
    findings = Findings()
    for member in runs:
        if not Path(member.config.output).expanduser().exists():
            with findings.collect(f"arm `{member.arm}`"):
                check_objectives(member.config)
    findings.raise_any()


def _command(member: Member) -> list[str]:
    return [sys.executable, "-m", "jaxdistill", "train", str(member.source), *member.overrides]


def _say(text: str) -> None:
    rich.get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def _write(study: StudyConfig, folder: Path, found: list[Outcome]) -> None:
    """`table.md`, `table.csv` and a plot of each quantity."""
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
        picture = standalone(draw_intervals(QUANTITIES[name], intervals))
        with whole_file(folder / f"{name}.svg") as file:
            file.write_text(picture, encoding="utf-8")
