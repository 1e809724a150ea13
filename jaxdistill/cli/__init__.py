"""Commands: `jaxdistill train | study | compare | eval | cost | generate | export | check | fetch`.

What the user can mend ends in one line a finding and exit code 2; anything else is a bug and
shows its traceback.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from jaxdistill.cli.options import parser
from jaxdistill.errors import INTERRUPTED, UserError

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with _stopped_by_signals():
            return options.command(options) or 0
    except UserError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """While entered, Ctrl-C and what a scheduler sends before it kills end the process at once.

    Not by an exception: one that rises in a callback of a library is lost, and the work goes on.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if is_main and signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
    os.write(2, b"\nStopped.\n")
    os._exit(INTERRUPTED)
