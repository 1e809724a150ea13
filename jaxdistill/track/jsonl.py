"""`metrics.jsonl`, the record of a run: one JSON object a line, exact to the bit."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError


class JsonlTracker:
    """Appends `{"step": ..., "room/quantity": ...}` for each logged step.

    Floats are written so that reading gives the same bits. A killed and continued run leaves the
    same file as an undisturbed one, but for the keys under `time/`: opening the file drops what
    was recorded after `restored_step`. A value that is not finite is written as null.

    Args:
        path: The file.
        restored_step: The step that the run continues from; None empties the file.
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
        """Nothing: `config.yaml` stands beside the file."""

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Appends a line, on disk when this returns: a checkpoint must not outlive its record."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _write_error(self._path, error) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _truncate_after(path: Path, restored_step: int | None) -> None:
    """Drops lines after `restored_step`, and a last line that was never finished, in one move."""
    if not path.exists():
        return
    last = -math.inf if restored_step is None else restored_step
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _parse_step(line) <= last]
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _parse_step(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written: {error.strerror}. Free the disk, or move the run."
    )
