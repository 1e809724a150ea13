"""Tracker that prints: a table at the start, then a line for each record."""

from collections.abc import Mapping
from typing import Any

import rich
from rich.console import Console


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


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"
