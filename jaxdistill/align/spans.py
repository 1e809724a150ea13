"""Which tokens of two tokenizations of one text are compared with each other."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Alignment:
    """How the tokens of two tokenizers meet.

    Attributes:
        by: `spans`: in groups that stand for the same bytes; `positions`: the n-th with the n-th,
            whatever they stand for.
        average: What counts the same: every group of a batch (`groups`), or every row of it,
            however many groups it has (`rows`).
    """

    by: Literal["spans", "positions"]
    average: Literal["groups", "rows"] = "groups"


class Groups(NamedTuple):
    """The number of the group that each token is in, from 0 on in their order; -1 for none.

    Every group has tokens on both sides.
    """

    student: Int[np.ndarray, " T"]
    teacher: Int[np.ndarray, " S"]


def spans(
    student_ends: Int[np.ndarray, " T"],
    teacher_ends: Int[np.ndarray, " S"],
    *,
    starts: tuple[int, int] = (0, 0),
) -> Groups:
    """The smallest groups that begin and end on the same byte on both sides.

    Several tokens may reach one byte: the pieces of a character count as reaching its end, and
    belong to one group. Tokens that bring nothing at the beginning are in none, nor are those
    behind the last group, of a text that was cut on the other side.

    Args:
        student_ends: The byte of the shared text that each of the student's tokens reaches, never
            less than the one before it.
        teacher_ends: The same of the teacher's tokens.
        starts: The byte where each side begins: behind 0 where its first tokens were cut off.
    """
    meetings = np.intersect1d([starts[0], *student_ends], [starts[1], *teacher_ends])

    def numbers(ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
        found = np.searchsorted(meetings, ends) - 1
        return np.where(found < len(meetings) - 1, found, -1)

    return Groups(numbers(student_ends), numbers(teacher_ends))


def positions(
    student_counts: Bool[np.ndarray, " T"], teacher_counts: Bool[np.ndarray, " S"]
) -> Groups:
    """The n-th token that counts on one side with the n-th of the other; the rest is in none."""
    num_groups = min(student_counts.sum(), teacher_counts.sum())

    def numbers(counts: Bool[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
        found = np.cumsum(counts) - 1
        return np.where(counts & (found < num_groups), found, -1)

    return Groups(numbers(student_counts), numbers(teacher_counts))
