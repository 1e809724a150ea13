"""Records of a `metrics.jsonl`, and the parts of the file that are damaged."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import rich


class MetricRecord(NamedTuple):
    """One line of the file: its step, its values with the step among them, and its bytes."""

    step: int
    values: dict[str, Any]
    line: bytes


def read_records(path: Path) -> list[MetricRecord]:
    """Read all whole records of a file; empty if there is none.

    A note is printed for each damaged part. An incomplete last line, as a killed process leaves it,
    is no damage.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    parsed = [(number, _parse(line)) for number, line in enumerate(lines, start=1) if line]
    for note in _damage_notes(path, parsed):
        rich.get_console().print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    return [record for _, record in parsed if record is not None]


def _parse(line: bytes) -> MetricRecord | None:
    """Parse a line; None if it is not a record."""
    try:
        values = json.loads(line)
        step = int(values["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    return MetricRecord(step, values, line + b"\n")


def _damage_notes(path: Path, parsed: list[tuple[int, MetricRecord | None]]) -> list[str]:
    """Return a line for each run of damaged lines, with the steps whose records are missing."""
    records, notes = [(n, record.step) for n, record in parsed if record is not None], []
    for is_damaged, part in groupby(parsed, key=lambda item: item[1] is None):
        numbers = [number for number, _ in part]
        if not is_damaged:
            continue
        first, last = numbers[0], numbers[-1]
        lines = f"line {first} is" if first == last else f"lines {first} to {last} are"
        before = next((f"step {step}" for n, step in reversed(records) if n < first), "the start")
        after = next((f"step {step}" for n, step in records if n > last), "the end")
        notes.append(
            f"{path}: {lines} damaged and left out: records from {before} to {after} are missing."
        )
    return notes
