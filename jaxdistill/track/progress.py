"""Progress bar with tokens per second and remaining time."""

import time
from collections import deque

import rich
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

_SPEED_WINDOW = 30
"""Number of latest advances that speed is averaged over, so that compilation soon drops out."""


class Progress:
    """Progress bar of one loop; without a terminal only `advance_to` prints.

    Example:
        >>> with Progress("train", total=2) as progress:
        ...     for _ in range(2):
        ...         progress.advance(tokens=512, note="loss 2.31")

    Args:
        description: Label of the bar.
        total: Number of items to do.
        completed: Number of items done before.
        console: Console to draw on; the process's own by default.
    """

    def __init__(
        self, description: str, total: int, *, completed: int = 0, console: Console | None = None
    ):
        console = console or rich.get_console()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            description, total=total, completed=completed, speed="", note=""
        )
        self._recent: deque[tuple[float, int]] = deque(maxlen=_SPEED_WINDOW)

    def __enter__(self) -> "Progress":
        self._bar.start()
        self._recent.append((time.monotonic(), 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance_to(self, completed: int, total: int, tokens: int) -> None:
        """Move the bar to `completed` of `total`, after `tokens` more; print without a terminal."""
        self._bar.update(self._task, total=total)
        task = self._bar.tasks[0]
        self.advance(completed - int(task.completed), tokens=tokens)
        if self._bar.disable:
            line = f"{task.description} {completed}/{total}  {task.fields['speed']}"
            self._bar.console.print(line, highlight=False, markup=False)

    def advance(self, count: int = 1, *, tokens: int = 0, note: str = "") -> None:
        """Move the bar on by `count` items of `tokens` tokens, and show `note` at its end."""
        self._recent.append((time.monotonic(), tokens))
        seconds = self._recent[-1][0] - self._recent[0][0]
        recent_tokens = sum(tokens for _, tokens in list(self._recent)[1:])
        has_speed = recent_tokens and seconds > 0
        speed = f"{recent_tokens / seconds:,.0f} tokens/s" if has_speed else ""
        self._bar.update(self._task, advance=count, speed=speed, note=note)
