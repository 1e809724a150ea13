"""Graceful stop of the training loop on SIGINT or SIGTERM."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdistill.signal_handler import handle_signals


class Interrupt:
    """Record of the first SIGINT or SIGTERM, so that the loop can stop after its step."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    @classmethod
    @contextmanager
    def catch(cls) -> Iterator["Interrupt"]:
        """Record the first signal while entered; a second one acts as it would without this."""
        interrupt = cls()
        with handle_signals(interrupt._record, signal.SIGINT, signal.SIGTERM, once=True):
            yield interrupt

    def should_stop(self) -> bool:
        """Return True once any process has received a signal.

        All processes get the same result, so that they leave the loop after the same step.
        """
        is_signalled = self.signal_name is not None
        if jax.process_count() == 1:
            return is_signalled
        return bool(np.any(multihost_utils.process_allgather(np.asarray(is_signalled))))

    def _record(self, received: signal.Signals) -> None:
        self.signal_name = received.name
        # A handler may run inside any print, so it must not use Python's buffered output.
        os.write(2, b"\nStopping after the steps that have begun; once more stops at once.\n")
