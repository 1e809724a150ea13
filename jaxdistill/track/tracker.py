"""What a run tells the outside: the protocol, and the sinks that a config asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from jaxdistill.config import configclass
from jaxdistill.track.console import ConsoleTracker
from jaxdistill.track.jsonl import JsonlTracker
from jaxdistill.track.tensorboard import TensorBoardTracker


@runtime_checkable
class Tracker(Protocol):
    """Somewhere that a run's numbers go."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Called once before the first step with what the run is, by name."""
        ...

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Called with the numbers of one step, named `room/quantity`, in the order of steps."""
        ...

    def close(self) -> None:
        """Called once, also when the run fails."""
        ...


@configclass
class TrackConfig:
    """Sinks besides the console and `metrics.jsonl`, which are always on.

    Attributes:
        tensorboard: Whether TensorBoard's event files are written to `tensorboard/`, too.
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
    """The sinks of a run; only process 0 should open any.

    Args:
        config: Which sinks.
        directory: The run folder.
        restored_step: The step that the run continues from, and what was recorded after it is
            dropped; None when it starts afresh.
        num_steps: How many steps the run has, for the console.
        console: Where to print; the process's own by default.
    """
    trackers: list[Tracker] = [
        ConsoleTracker(num_steps=num_steps, console=console),
        JsonlTracker(directory / "metrics.jsonl", restored_step=restored_step),
    ]
    if config.tensorboard:
        trackers.append(TensorBoardTracker(directory / "tensorboard", restored_step=restored_step))
    return trackers
