"""TensorBoard event files through tensorboardX: three small dependencies, no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError


class TensorBoardTracker:
    """Writes every number as a scalar under its own name.

    Args:
        directory: Where the event files go (`tensorboard --logdir` reads it).
        restored_step: The step that the run continues from; TensorBoard then hides what was
            recorded after it.

    Raises:
        UserError: when tensorboardX is not installed.
    """

    def __init__(self, directory: Path, *, restored_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "track.tensorboard: the package tensorboardX is not installed. "
                "Run `pip install 'jaxdistill[tensorboard]'`, or set `track.tensorboard=false`."
            ) from None
        purge = None if restored_step is None else restored_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Writes the table as text."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self._writer.add_text("config", f"| | |\n|---|---|\n{rows}", 0)

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Writes one scalar for each of `values`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()
