"""Standard output whose reader may go away without ending long work."""

import os
import sys
from typing import Any


class SafeStdout:
    """Standard output that discards all text once it cannot be written, as after `| head`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write and flush `text`, or discard it."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            discard_stdout()
        return len(text)


def discard_stdout() -> None:
    """Redirect standard output to the null device; Python flushes its buffer once more at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
