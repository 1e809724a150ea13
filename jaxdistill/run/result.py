"""Result of a finished run, and metrics before its first step, as JSON files of the run folder.

A file that is damaged counts as missing: its content is then computed again.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic


@dataclass(frozen=True)
class SampleRecord:
    """Completions of one prompt, by the name of the model."""

    prompt: str
    answers: dict[str, str]


@dataclass(frozen=True)
class RunResult:
    """Content of `result.json`.

    Attributes:
        comparison: Quantities of each model.
        samples: Prompts with the completions of each model.
        facts: Counts of data, time and versions, by name.
        inputs: Hashes of everything that the run is made from besides its config, by name; empty in
            a file of an older version.
        is_chat: True if prompts were learned as chats; None in a file of an older version.
    """

    comparison: dict[str, dict[str, float]]
    samples: list[SampleRecord]
    facts: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    is_chat: bool | None = None


def read_result(path: Path) -> RunResult | None:
    """Return the result of a finished run; None if it is missing or damaged."""
    return _read(path, RunResult)


def read_initial_metrics(path: Path) -> dict[str, float] | None:
    """Return the held-out metrics before training; None if they are missing or damaged."""
    return _read(path, dict[str, float]) or None


def _read(path: Path, content_type: Any) -> Any:
    try:
        content = json.loads(path.read_bytes())
        return pydantic.TypeAdapter(content_type).validate_python(content)
    except (OSError, ValueError, RecursionError):  # pydantic's errors are ValueErrors
        return None
