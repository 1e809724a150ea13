"""The run on the console: an opening table, then one plain line for each logged step."""

from collections.abc import Mapping
from typing import Any

import rich
from rich.console import Console


class ConsoleTracker:
    """Prints what the run is, and its numbers as lines that read well in a log file too.

    Args:
        num_steps: How many steps the run has, when it is known.
        console: Where to print; the process's own by default, as `Progress` does, so that lines
            appear above a live bar.
    """

    def __init__(self, *, num_steps: int | None = None, console: Console | None = None):
        self._num_steps = num_steps
        self._console = console or rich.get_console()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Prints `config` in two columns."""
        width = max(map(len, config), default=0)
        for name, value in config.items():
            line = f"{name:<{width}}  {_format_value(value)}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Prints a line for each room (`train`, `eval`, ...) in `values`; times join the first."""
        rooms: dict[str, list[str]] = {}
        for name, value in values.items():
            room, _, quantity = name.rpartition("/")
            rooms.setdefault(room, []).append(f"{quantity} {_format_value(value)}")
        times = rooms.pop("time", [])
        counted = f"{step}" if self._num_steps is None else f"{step}/{self._num_steps}"
        for room, quantities in rooms.items():
            line = "  ".join([f"step {counted}", room, *quantities, *times])
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
            times = []

    def close(self) -> None:
        """Nothing is held open."""


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"
