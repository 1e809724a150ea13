"""Trackers of a run's metrics: console, `metrics.jsonl` and TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import rich
from rich.console import Console

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file
from jaxdistill.track.metric_records import read_records


@runtime_checkable
class Tracker(Protocol):
    """Receiver of a run's metrics."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record facts about the run by name; called once, before the first step."""

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Record metrics of one step, named `package/quantity`; steps never decrease."""

    def close(self) -> None:
        """Release resources; called once, also when the run fails."""


class ConsoleTracker:
    """Tracker that prints metrics as plain lines, readable on a terminal and in a log file.

    Args:
        num_steps: Number of steps in the run; None if unknown.
        console: Console to print on. The default is the process's own console, which `Progress`
            also uses, so that lines appear above a live bar.
    """

    def __init__(self, *, num_steps: int | None = None, console: Console | None = None):
        self._num_steps = num_steps
        self._console = console or rich.get_console()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Print `config` in two columns."""
        width = max(map(len, config), default=0)
        for name, value in config.items():
            self._print(f"{name:<{width}}  {_format_value(value)}")

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Print one line for each package (`train`, `eval`); times join the first line."""
        packages: dict[str, list[str]] = {}
        for name, value in values.items():
            package, _, quantity = name.rpartition("/")
            packages.setdefault(package, []).append(f"{quantity} {_format_value(value)}")
        times = packages.pop("time", [])
        progress = f"{step}" if self._num_steps is None else f"{step}/{self._num_steps}"
        for package, quantities in packages.items():
            self._print("  ".join([f"step {progress}", package, *quantities, *times]))
            times = []

    def close(self) -> None:
        """Do nothing: the console stays open."""

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class JsonlTracker:
    """Tracker that appends `{"step": ..., "package/quantity": ...}` to a file.

    Floats are read back bit for bit. A value that is not finite is written as null. A run that was
    killed and continued leaves the same file as an undisturbed run, except for the keys under
    `time/`: opening the file drops the records after `restored_step`.

    Args:
        path: The file.
        restored_step: Step that the run continues from; None starts an empty file.

    Raises:
        UserError: If the file cannot be written.
    """

    def __init__(self, path: Path, *, restored_step: int | None = None):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _truncate_after(path, restored_step)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise _write_error(path, error) from None

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Do nothing: `config.yaml` is in the same folder."""

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Append a line and wait until it is on disk, so that no checkpoint is newer."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _write_error(self._path, error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardTracker:
    """Tracker that writes every metric as a TensorBoard scalar of the same name.

    Args:
        directory: Folder of the event files, for `tensorboard --logdir`.
        restored_step: Step that the run continues from; TensorBoard then hides later records.

    Raises:
        UserError: If tensorboardX is not installed.
    """

    def __init__(self, directory: Path, *, restored_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "track.tensorboard: the package tensorboardX is not installed. "
                "Run `pip install 'jaxdistill[tensorboard]'`, or set `track.tensorboard=false`."
            ) from None
        purge_step = None if restored_step is None else restored_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge_step)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Write `config` as a Markdown table."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self._writer.add_text("config", f"| | |\n|---|---|\n{rows}", 0)

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write one scalar for each of `values`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


@configclass
class TrackConfig:
    """Records besides the console and `metrics.jsonl`, which are always written.

    Attributes:
        tensorboard: Write TensorBoard event files to the folder `tensorboard/` of the run.
    """

    tensorboard: bool = False


def open_trackers(
    config: TrackConfig,
    directory: Path,
    *,
    restored_step: int | None = None,
    num_steps: int | None = None,
    console: Console | None = None,
) -> list[Tracker]:
    """Open the trackers of a run in its folder. Only process 0 should call this.

    Records after `restored_step` are dropped, all if it is None. The console shows `num_steps`.
    """
    trackers: list[Tracker] = [
        ConsoleTracker(num_steps=num_steps, console=console),
        JsonlTracker(directory / "metrics.jsonl", restored_step=restored_step),
    ]
    if config.tensorboard:
        trackers.append(TensorBoardTracker(directory / "tensorboard", restored_step=restored_step))
    return trackers


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def _truncate_after(path: Path, restored_step: int | None) -> None:
    """Drop records after `restored_step` and damaged lines, in one atomic rename."""
    if not path.exists():
        return
    records = [] if restored_step is None else read_records(path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"".join(r.line for r in records if r.step <= (restored_step or 0)))


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written: {error.strerror}. Free disk space, or move the run folder."
    )
