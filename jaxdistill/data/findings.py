"""What is wrong with the data, collected, so that a user mends it in one go."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxdistill.errors import UserError


class Findings:
    """Gathers the lines of several `UserError`s into one.

    Args:
        limit: How many lines are shown; the others are counted.
    """

    def __init__(self, limit: int = 10):
        self._limit = limit
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
            UserError: with one line a finding, and how many more there are.
        """
        if not self._lines:
            return
        more = len(self._lines) - self._limit
        tail = (f"... and {more} more like these in the data.",) if more > 0 else ()
        raise UserError(*self._lines[: self._limit], *tail)
