"""Tracker protocol, its config, and the trackers of a run."""

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
    """Receiver of a run's metrics."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record facts about the run by name; called once, before the first step."""
        ...

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Record metrics of one step, named `package/quantity`; steps never decrease."""
        ...

    def close(self) -> None:
        """Release resources; called once, also when the run fails."""
        ...


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
    """Open the trackers of a run. Only process 0 should call this.

    Args:
        config: Config of the trackers.
        directory: The run folder.
        restored_step: Step that the run continues from; later records are dropped. None starts
            new records.
        num_steps: Number of steps in the run, for the console.
        console: Console to print on; the process's own by default.
    """
    trackers: list[Tracker] = [
        ConsoleTracker(num_steps=num_steps, console=console),
        JsonlTracker(directory / "metrics.jsonl", restored_step=restored_step),
    ]
    if config.tensorboard:
        trackers.append(TensorBoardTracker(directory / "tensorboard", restored_step=restored_step))
    return trackers
