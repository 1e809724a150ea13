"""Temporary handlers of signals that ask a process to stop, such as Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handle_signals(
    handler: Callable[[signal.Signals], None],
    *signals: signal.Signals,
    once: bool = False,
) -> Iterator[None]:
    """Call `handler` for the given signals while entered, then restore the previous handlers.

    Signals that were ignored stay ignored, as `nohup` and `&` need. Outside the main thread
    nothing is handled: Python delivers signals to the main thread only. `once` restores the
    previous handlers before the first call, so that a second signal acts as it would without this.
    """
    previous: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def handle(number: int, _: object) -> None:
        if once:
            restore()
        handler(signal.Signals(number))

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
