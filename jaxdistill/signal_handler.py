"""Who hears what asks a process to stop: Ctrl-C, a scheduler, a terminal that closes."""

import signal
import threading
from abc import ABC, abstractmethod
from types import FrameType, TracebackType
from typing import Any, TypeVar

_Handler = TypeVar("_Handler", bound="SignalHandler")


class SignalHandler(ABC):
    """While entered, hears signals in place of whoever heard them before.

    Python delivers signals to the main thread only; in another this hears nothing. What was
    ignored before, as `nohup` and `&` ask for, stays so.

    Args:
        numbers: The signals.
    """

    def __init__(self, *signals: signal.Signals):
        self._numbers = signals or (signal.SIGINT, signal.SIGTERM)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self: _Handler) -> _Handler:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self.handle_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore_handlers()

    @abstractmethod
    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """What is done when a signal comes."""

    def restore_handlers(self) -> None:
        """Give the signals back."""
        while self._before:
            signal.signal(*self._before.popitem())
