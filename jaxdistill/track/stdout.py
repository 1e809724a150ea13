"""Standard output that may go away: long work does not die with whoever reads along."""

import os
import sys
from typing import Any


class SafeStdout:
    """Standard output; once it refuses to be written to, everything goes nowhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Writes, or does not."""
        try:
            return sys.stdout.write(text)
        except OSError:
            discard_stdout()
            return len(text)

    def flush(self) -> None:
        """Hands on what is buffered, or drops it."""
        try:
            sys.stdout.flush()
        except OSError:
            discard_stdout()


def discard_stdout() -> None:
    """Sends what is left in standard output nowhere: Python flushes it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
