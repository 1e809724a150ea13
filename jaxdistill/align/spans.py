"""Which tokens of two tokenizations stand for the same bytes of one text."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Spans(NamedTuple):
    """Groups of tokens that cover the same bytes, in order; what lies between ends is one group.

    A group reaches from behind the last token of the group before it to its own last token.
    Tokens behind the last group, of a text that was cut on the other side, are in none.

    Attributes:
        student: The last token of each group on the student's side.
        teacher: The last token of each on the teacher's.
    """

    student: Int[np.ndarray, " N"]
    teacher: Int[np.ndarray, " N"]


def spans(student_ends: Int[np.ndarray, " S"], teacher_ends: Int[np.ndarray, " T"]) -> Spans:
    """The smallest groups whose two sides end on the same byte.

    Several tokens may reach one byte: the pieces of a character count as reaching its end, and
    belong to one group. Tokens of no bytes at the beginning belong to the first.

    Args:
        student_ends: The byte of the shared text that each of the student's tokens reaches, never
            less than the one before it; marks that are no text are left out.
        teacher_ends: The same of the teacher's tokens.
    """
    ends = np.intersect1d(student_ends, teacher_ends)
    ends = ends[ends > 0]
    student, teacher = (
        np.searchsorted(side, ends, side="right") - 1 for side in (student_ends, teacher_ends)
    )
    return Spans(student, teacher)
