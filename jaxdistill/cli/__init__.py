"""The command line: `jaxdistill train`, `check`, `study`, `compare` and the other commands.

What the user can mend ends in one line a finding and exit code 2; anything else is a bug and
shows its traceback.
"""

import os
import sys
from collections.abc import Sequence
from types import FrameType

from jaxdistill.cli.parser import build_parser
from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.signal_handler import SignalHandler

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        with _ExitOnSignal():
            return options.command(options) or 0
    except UserError as error:
        for line in error.shown_lines:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR


class _ExitOnSignal(SignalHandler):
    """Ends the process at once.

    Not by an exception: one that rises in a callback of a library is lost, and the work goes on.
    """

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Say so, and end."""
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
        os.write(2, b"\nStopped.\n")
        os._exit(INTERRUPTED_EXIT_CODE)
