"""Temporary handlers of signals that ask a process to stop, such as Ctrl-C."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SECONDS_TO_HANDLE = 1.0


class _Handled:
    """Number of signals whose handler the main thread has begun to run."""

    count = 0


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
        _Handled.count += 1
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


@contextmanager
def watch_signals(exit_process: Callable[[], None], *signals: signal.Signals) -> Iterator[None]:
    """Call `exit_process` from a thread when a second signal comes and the handlers do not run.

    Python runs a handler between two of its instructions. While compiled code runs, perhaps without
    end, it runs none, and a process could not be stopped but by SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(
        target=_watch, args=(read_end, exit_process, frozenset(signals)), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(write_end)  # ends the thread


def _watch(read_end: int, exit_process: Callable[[], None], signals: frozenset[int]) -> None:
    """Read the numbers of signals, which the system's handler writes even in compiled code."""
    num_received, handled_before = 0, _Handled.count
    while number := os.read(read_end, 1):
        num_received += number[0] in signals
        if num_received >= 2:
            time.sleep(_SECONDS_TO_HANDLE)
            if _Handled.count - handled_before < num_received:
                exit_process()
    os.close(read_end)
