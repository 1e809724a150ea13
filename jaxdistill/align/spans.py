"""Which tokens of two tokenizations of one text are compared with each other."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class AlignmentRule:
    """How the tokens of two tokenizers meet.

    Attributes:
        by: `spans`: in groups that stand for the same bytes; `positions`: the n-th with the n-th,
            whatever they stand for.
        average: What counts the same: every group of a batch (`groups`), or every row of it,
            however many groups it has (`rows`).
        at: Where groups of several tokens meet: where they end, after all but their last tokens
            (`ends`); where they begin, after the same text on both sides (`begins`); or nowhere
            (`singles`), so that only tokens meet which stand alone for the same text.
    """

    method: Literal["spans", "positions"]
    average_over: Literal["groups", "rows"] = "groups"
    compare_at: Literal["ends", "begins", "singles"] = "ends"

    def __str__(self) -> str:
        return f"`{self.method}` ({self.compare_at}) averaged over {self.average_over}"


class SpanIds(NamedTuple):
    """The number of the group that each token is in, from 0 on in their order; -1 for none.

    Every group has tokens on both sides.
    """

    student: Int[np.ndarray, " T"]
    teacher: Int[np.ndarray, " S"]

    def select(self, compare_at: Literal["ends", "begins", "singles"]) -> "SpanIds":
        """The groups as an `Alignment` wants them."""
        if compare_at == "begins":
            return SpanIds(*(np.where(np.diff(side, prepend=-1) != 0, side, -1) for side in self))
        if compare_at == "singles":
            sizes = [np.bincount(side[side >= 0]) for side in self]
            is_single = np.append((sizes[0] == 1) & (sizes[1] == 1), False)
            ranks = np.where(is_single, np.cumsum(is_single) - 1, -1)
            return SpanIds(*(ranks[side] for side in self))
        return self


class ByteRanges(NamedTuple):
    """The bytes of a shared text that tokens stand for, in their order.

    Several tokens may reach one byte: pieces of a character count as reaching its end where it is
    not known how much of it each has.
    """

    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]


def align_spans(student: ByteRanges, teacher: ByteRanges) -> SpanIds:
    """The smallest groups that begin and end on the same byte and leave nothing out on either side.

    Tokens are left out where the other side's tokens do not cover exactly the same bytes: because
    it was cut, or because its last token goes on behind the text.
    """
    sides = student, teacher
    mine, theirs = (np.union1d(side.starts, side.ends) for side in sides)
    meetings = np.intersect1d(mine, theirs)
    sizes = np.diff(meetings)
    numbers = [np.searchsorted(meetings, side.ends) - 1 for side in sides]
    is_whole = np.ones(len(sizes), dtype=bool)
    for side, number in zip(sides, numbers, strict=True):
        inside = (number >= 0) & (number < len(sizes))
        lengths = (side.ends - side.starts)[inside]
        is_whole &= np.bincount(number[inside], lengths, minlength=len(sizes)) == sizes
    ranks = np.append(np.where(is_whole, np.cumsum(is_whole) - 1, -1), -1)
    # What lies behind the last meeting, or before the first, has the number that is left over.
    return SpanIds(*(ranks[np.where(n < len(sizes), n, -1)] for n in numbers))


def align_positions(
    student_ranks: Int[np.ndarray, " T"], teacher_ranks: Int[np.ndarray, " S"]
) -> SpanIds:
    """The n-th token of one side with the n-th of the other; what has no counterpart is in none.

    Args:
        student: The number of each of the student's tokens, climbing; -1 for what does not count.
        teacher: The same of the teacher's.
    """
    both = np.intersect1d(student_ranks[student_ranks >= 0], teacher_ranks[teacher_ranks >= 0])

    def numbers(side: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
        return np.where(np.isin(side, both), np.searchsorted(both, side), -1)

    return SpanIds(numbers(student_ranks), numbers(teacher_ranks))
