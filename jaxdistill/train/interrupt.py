"""SIGINT and SIGTERM ask a loop to stop after its step; a second one stops it at once."""

import os
import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdistill.signal_handler import SignalHandler


class Interrupt(SignalHandler):
    """While entered, remembers the first signal instead of dying of it.

    After that first one the handlers that were there before are back, so that a second kills.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal_name: str | None = None

    def should_stop(self) -> bool:
        """Whether any process was asked to stop: all must leave the loop after the same step."""
        asked = self.signal_name is not None
        if jax.process_count() == 1:
            return asked
        return bool(np.any(multihost_utils.process_allgather(np.asarray(asked))))

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember it."""
        self.signal_name = signal.Signals(number).name
        self.restore_handlers()
        # A handler may run inside any print, so this one writes past Python's buffers.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")
