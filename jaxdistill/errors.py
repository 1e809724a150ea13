"""Errors that a user can fix: the command line prints a `UserError` without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED_EXIT_CODE = 130
"""Exit code of a command that a signal ended; shells use it for Ctrl-C."""

MAX_SHOWN_LINES = 10
"""Number of error lines that are shown; further lines are only counted."""

MAX_LINE_LENGTH = 1000
"""Number of characters of an error line that are shown: of a longer one, its start and end."""


class UserError(Exception):
    """Mistakes in a config, a file or an option, with what to do about them.

    Args:
        *lines: One line per mistake: where it is, what came, what was expected, the nearest right
            thing and what to do. Report all mistakes that can be found at once together.
    """

    def __init__(self, *lines: str):
        self.lines = lines
        super().__init__("\n".join(self.shown_lines))

    @property
    def shown_lines(self) -> tuple[str, ...]:
        """The first `MAX_SHOWN_LINES` lines, safe to print, then the number of further lines."""
        shown = tuple(map(printable_line, self.lines[:MAX_SHOWN_LINES]))
        more = len(self.lines) - MAX_SHOWN_LINES
        return (*shown, f"... and {more} more.") if more > 0 else shown


def printable_line(text: str) -> str:
    """Return a text, which may hold names from files, as one line that a terminal shows as it is.

    Control characters and line breaks are escaped, and a long text is cut in its middle.
    """
    if len(text) > MAX_LINE_LENGTH:
        half = MAX_LINE_LENGTH // 2
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ErrorCollector:
    """Collector of several `UserError`s, so that a user sees all mistakes at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """All collected lines."""
        return tuple(self._lines)

    @contextmanager
    def collect(self, source: str = "") -> Iterator[None]:
        """Catch a `UserError` raised inside and keep its lines, each prefixed with `source`."""
        try:
            yield
        except UserError as error:
            self._lines += [f"{source}: {line}" if source else line for line in error.lines]

    def raise_if_any(self) -> None:
        """Raise one `UserError` with all collected lines, if there are any."""
        if self._lines:
            raise UserError(*self._lines)


def did_you_mean(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """Return ` Did you mean `x`?` for the closest known name, or "" if none is close."""
    import difflib

    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
