"""What is the user's to mend: `cli` prints a `UserError` as lines, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED_EXIT_CODE = 130
"""The exit code of a command that a signal ended, as shells have it for Ctrl-C."""


MAX_SHOWN_LINES = 10
"""How many findings are told; the others are counted."""


class UserError(Exception):
    """Something in a config, a file or a flag is wrong, and the message says what to do about it.

    Args:
        *lines: One finding a line, each saying where, what came, what was expected, and the
            nearest right thing. All that can be found at once are told at once.
    """

    def __init__(self, *lines: str):
        self.lines = lines
        super().__init__("\n".join(self.shown_lines))

    @property
    def shown_lines(self) -> tuple[str, ...]:
        """The first lines, and how many more there are."""
        more = len(self.lines) - MAX_SHOWN_LINES
        return (*self.lines[:MAX_SHOWN_LINES], f"... and {more} more.") if more > 0 else self.lines


class ErrorCollector:
    """Gathers the lines of several `UserError`s into one, so that a user mends them in one go."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    @contextmanager
    def collect(self, source: str = "") -> Iterator[None]:
        """Take note of a `UserError` raised inside, said of `place`, and go on."""
        try:
            yield
        except UserError as error:
            self._lines += [f"{source}: {line}" if source else line for line in error.lines]

    def raise_if_any(self) -> None:
        """Raise what was gathered, if anything was.

        Raises:
            UserError: with one line a finding.
        """
        if self._lines:
            raise UserError(*self._lines)


def did_you_mean(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """` Did you mean `x`?` for the closest of `words`, or nothing when none is close."""
    import difflib

    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
