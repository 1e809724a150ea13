"""Execution of a study: missing runs are trained one at a time, then the tables are written."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import rich

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, ErrorCollector, UserError
from jaxdistill.report import QUANTITIES, draw_intervals, to_standalone_svg
from jaxdistill.run import check_objectives
from jaxdistill.run.folder import write_text
from jaxdistill.sharding import check_single_process
from jaxdistill.study.config import StudyConfig, StudyRun, expand_runs
from jaxdistill.study.process_runner import ProcessRunner, lock_folder
from jaxdistill.study.table import ArmResult, arm_results, csv_rows, markdown_table


def run(study: StudyConfig, path: str | Path) -> int:
    """Train every missing run of a study, each in its own process, then compare the arms.

    A run that was interrupted continues from its last checkpoint. `path` is the study's file, which
    `study.run` is relative to.

    Returns:
        Exit code: 0, or 130 if a signal ended the study early.

    Raises:
        UserError: A config is wrong, a run failed, or runs cannot be compared.
    """
    check_single_process(takes_devices=False)
    runs = expand_runs(study, path)
    _check_new_arms(runs[: len(study.arms)])
    folder = Path(study.output).expanduser()

    def print_waiting() -> None:
        _print(f"Waiting for another study, or a run left by a killed one, in {folder}.")

    with lock_folder(folder, print_waiting) as lock:
        with ProcessRunner.open(lock) as processes:
            for number, study_run in enumerate(runs, start=1):
                _print(f"[{number}/{len(runs)}] {study_run.arm}, seed {study_run.seed}")
                code = processes.run(_train_command(study_run))
                if code == INTERRUPTED_EXIT_CODE:
                    _print(
                        f"Stopped in run {number} of {len(runs)}. "
                        "The same command continues from there."
                    )
                    return code
                if code:
                    raise UserError(
                        f"arm `{study_run.arm}`, seed {study_run.seed}: the run ended with exit "
                        f"code {code}; its message is above. If it asks for another `output`, "
                        "change the study's `output`. Once fixed, the same command continues."
                    )
        _write_tables(study, folder, arm_results(study, runs))
    _print((folder / "table.md").read_text(encoding="utf-8"))
    return 0


def _check_new_arms(runs: Sequence[StudyRun]) -> None:
    """Check the arms that have no run yet: training of earlier arms may take hours."""
    errors = ErrorCollector()
    for study_run in runs:
        if not Path(study_run.config.output).expanduser().exists():
            with errors.collect(f"arm `{study_run.arm}`"):
                check_objectives(study_run.config)
    errors.raise_if_any()


def _train_command(study_run: StudyRun) -> list[str]:
    command = [sys.executable, "-m", "jaxdistill", "train"]
    return [*command, str(study_run.config_path), *study_run.overrides]


def _print(text: str) -> None:
    rich.get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def _write_tables(study: StudyConfig, folder: Path, results: list[ArmResult]) -> None:
    """Write `table.md`, `table.csv` and a plot of each quantity."""
    write_text(folder / "table.md", markdown_table(study, results))
    rows = csv_rows(study, results)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "table.csv", text.getvalue())
    for name in study.quantities:
        intervals = {result.arm: astuple(result.values[name]) for result in results}
        svg = to_standalone_svg(draw_intervals(QUANTITIES[name], intervals))
        write_text(folder / f"{name}.svg", svg)
