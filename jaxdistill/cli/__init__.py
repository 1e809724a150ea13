"""The command line: `jaxdistill train`, `check`, `study`, `compare` and the other commands.

A mistake of the user ends in one line per mistake and exit code 2; any other error is a bug and
shows its traceback.
"""

import os
import signal
import sys
from collections.abc import Sequence

from jaxdistill.cli.parser import build_parser
from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.signal_handler import handle_signals, watch_signals

USAGE_ERROR = 2

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    options.arguments = arguments
    try:
        with (
            handle_signals(_exit_on_signal, *_STOP_SIGNALS),
            watch_signals(_exit, *_STOP_SIGNALS),
        ):
            return options.command(options) or 0
    except UserError as error:
        for line in error.shown_lines:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR


def _exit_on_signal(_: signal.Signals) -> None:
    _exit()


def _exit() -> None:
    """End the process at once, since an exception could get lost in a library's callback."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # show the cursor, which a progress bar hides
    os.write(2, b"\nStopped.\n")
    os._exit(INTERRUPTED_EXIT_CODE)
