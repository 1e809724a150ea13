"""Running what a study still lacks, one run at a time, and writing what came of it."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import rich

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, ErrorCollector, UserError
from jaxdistill.files import atomic_file
from jaxdistill.report import QUANTITIES, draw_intervals, to_standalone_svg
from jaxdistill.run import check_objectives
from jaxdistill.study.config import StudyConfig, StudyRun, expand_runs
from jaxdistill.study.process_runner import ProcessRunner, lock_folder
from jaxdistill.study.table import ArmResult, arm_results, csv_rows, markdown_table


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
    runs = expand_runs(study, path)
    _check_new_arms(runs[: len(study.arms)])
    folder = Path(study.output).expanduser()

    def say_who_waits() -> None:
        _print(f"Another study, or a run that a killed one left, is at work in {folder}: waiting.")

    with lock_folder(folder, say_who_waits) as lock:
        with ProcessRunner(lock) as processes:
            for number, member in enumerate(runs, start=1):
                _print(f"[{number}/{len(runs)}] {member.arm}, seed {member.seed}")
                code = processes.run(_train_command(member))
                if code == INTERRUPTED_EXIT_CODE:
                    _print(
                        f"Stopped in run {number} of {len(runs)}. The same command goes on there."
                    )
                    return code
                if code:
                    raise UserError(
                        f"arm `{member.arm}`, seed {member.seed}: the run ended with exit code "
                        f"{code}; what it said stands above. Where it asks for another `output`, "
                        "name another for the study. Mended, the same command goes on with it."
                    )
        _write_tables(study, folder, arm_results(study, runs))
    _print((folder / "table.md").read_text(encoding="utf-8"))
    return 0


def _check_new_arms(runs: Sequence[StudyRun]) -> None:
    """See that arms which have no run yet can have one: the last would tell after hours."""
    findings = ErrorCollector()
    for member in runs:
        if not Path(member.config.output).expanduser().exists():
            with findings.collect(f"arm `{member.arm}`"):
                check_objectives(member.config)
    findings.raise_if_any()


def _train_command(study_run: StudyRun) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jaxdistill",
        "train",
        str(study_run.config_path),
        *study_run.overrides,
    ]


def _print(text: str) -> None:
    rich.get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def _write_tables(study: StudyConfig, folder: Path, results: list[ArmResult]) -> None:
    """`table.md`, `table.csv` and a plot of each quantity."""
    with atomic_file(folder / "table.md") as file:
        file.write_text(markdown_table(study, results), encoding="utf-8")
    lines = csv_rows(study, results)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    with atomic_file(folder / "table.csv") as file:
        file.write_text(text.getvalue(), encoding="utf-8")
    for name in study.quantities:
        intervals = {outcome.arm: astuple(outcome.values[name]) for outcome in results}
        picture = to_standalone_svg(draw_intervals(QUANTITIES[name], intervals))
        with atomic_file(folder / f"{name}.svg") as file:
            file.write_text(picture, encoding="utf-8")
