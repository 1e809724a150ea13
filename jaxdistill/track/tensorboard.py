"""Tracker that writes TensorBoard event files through tensorboardX, without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdistill.errors import UserError


class TensorBoardTracker:
    """Tracker that writes every metric as a TensorBoard scalar of the same name.

    Args:
        directory: Folder of the event files, for `tensorboard --logdir`.
        restored_step: Step that the run continues from; TensorBoard then hides later records.

    Raises:
        UserError: If tensorboardX is not installed.
    """

    def __init__(self, directory: Path, *, restored_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "track.tensorboard: the package tensorboardX is not installed. "
                "Run `pip install 'jaxdistill[tensorboard]'`, or set `track.tensorboard=false`."
            ) from None
        purge_step = None if restored_step is None else restored_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge_step)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Write `config` as a Markdown table."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self._writer.add_text("config", f"| | |\n|---|---|\n{rows}", 0)

    def log_metrics(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write one scalar for each of `values`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
