"""What is the user's to mend: `cli` prints a `UserError` as lines, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code of a command that a signal ended, as shells have it for Ctrl-C."""


MOST_LINES = 10
"""How many findings are told; the others are counted."""


class UserError(Exception):
    """Something in a config, a file or a flag is wrong, and the message says what to do about it.

    Args:
        *lines: One finding a line, each saying where, what came, what was expected, and the
            nearest right thing. All that can be found at once are told at once.
    """

    def __init__(self, *lines: str):
        self.lines = lines
        super().__init__("\n".join(self.shown))

    @property
    def shown(self) -> tuple[str, ...]:
        """The first lines, and how many more there are."""
        more = len(self.lines) - MOST_LINES
        return (*self.lines[:MOST_LINES], f"... and {more} more.") if more > 0 else self.lines


class Findings:
    """Gathers the lines of several `UserError`s into one, so that a user mends them in one go."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    @contextmanager
    def collect(self, place: str = "") -> Iterator[None]:
        """Take note of a `UserError` raised inside, said of `place`, and go on."""
        try:
            yield
        except UserError as error:
            self._lines += [f"{place}: {line}" if place else line for line in error.lines]

    def raise_any(self) -> None:
        """Raise what was gathered, if anything was.

        Raises:
            UserError: with one line a finding.
        """
        if self._lines:
            raise UserError(*self._lines)


def nearest(word: str, words: "list[str] | tuple[str, ...]") -> str:
    """` Did you mean `x`?` for the closest of `words`, or nothing when none is close."""
    import difflib

    matches = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
