"""Tracker that writes `metrics.jsonl`, the record of a run: one JSON object per line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError


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


def _truncate_after(path: Path, restored_step: int | None) -> None:
    """Drop records after `restored_step` and an incomplete last line, in one atomic rename."""
    if not path.exists():
        return
    last_step = -math.inf if restored_step is None else restored_step
    lines = path.read_bytes().splitlines(keepends=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.writelines(
            line for line in lines if line.endswith(b"\n") and _parse_step(line) <= last_step
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parse_step(line: bytes) -> float:
    """Return the step of a record; infinity if the line is not a record."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written: {error.strerror}. Free disk space, or move the run folder."
    )
