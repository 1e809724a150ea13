"""SIGINT and SIGTERM ask a loop to stop after its step; a second one stops it at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, remembers the first signal instead of dying of it.

    After that first one the handlers that were there before are back, so that a second kills.
    Python delivers signals to the main thread only; in another this does nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` and `&` ask for
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def agreed(self) -> bool:
        """Whether any process was asked to stop: all must leave the loop after the same step."""
        asked = self.received is not None
        if jax.process_count() == 1:
            return asked
        return bool(np.any(multihost_utils.process_allgather(np.asarray(asked))))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()
        # A handler may run inside any print, so this one writes past Python's buffers.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
