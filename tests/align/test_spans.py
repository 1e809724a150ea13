"""Groups cover every byte between two meetings once, in order, and cannot be made smaller."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align.spans import ByteRanges, align_positions, align_spans

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_spans.json").read_text())


def extents(*ends, start=0):
    """Tokens one after the other."""
    ends = np.array(ends, dtype=int)
    return ByteRanges(np.concatenate([[start], ends[:-1]])[: len(ends)].astype(int), ends)


@st.composite
def tokenizations(draw):
    """Two tokenizations of one text: tokens of no bytes, cut at both ends, some left out."""
    size = draw(st.integers(1, 40))
    sides = []
    for _ in range(2):
        cuts = draw(st.lists(st.integers(0, size), max_size=30))
        whole = extents(*sorted([*cuts, size]))
        first = draw(st.integers(0, len(whole.ends)))
        last = draw(st.integers(first, len(whole.ends)))
        kept = np.arange(first, last)
        if draw(st.booleans()) and len(kept):
            kept = np.delete(kept, draw(st.integers(0, len(kept) - 1)))
        sides.append(ByteRanges(whole.starts[kept], whole.ends[kept]))
    return sides


def covered(side, numbers, number):
    """The bytes that the tokens of a group stand for."""
    here = numbers == number
    return sorted(
        byte
        for begin, end in zip(side.begins[here], side.ends[here], strict=True)
        for byte in range(begin, end)
    )


@given(tokenizations())
def test_groups_cover_the_same_bytes(made):
    found = align_spans(*made)
    groups = [
        [covered(side, numbers, n) for n in range(numbers.max(initial=-1) + 1)]
        for side, numbers in zip(made, found, strict=True)
    ]
    assert groups[0] == groups[1]
    whole = [byte for group in groups[0] for byte in group]
    assert whole == sorted(set(whole))  # in order, each byte once
    for group in groups[0]:
        assert group == list(range(group[0], group[-1] + 1))  # at least one, none left out
        # No smaller groups: the two sides meet inside of none.
        inside = set(group[1:])
        assert not inside & set(made[0].begins.tolist()) & set(made[1].begins.tolist())
    # What both have of a text, from one meeting to the next, is in a group.
    bytes_of = [covered(side, np.zeros(len(side.ends)), 0) for side in made]
    edges = [sorted({*side.begins.tolist(), *side.ends.tolist()}) for side in made]
    meetings = sorted(set(edges[0]) & set(edges[1]))
    for start, end in pairwise(meetings):
        if all(set(range(start, end)) <= set(side) for side in bytes_of):
            assert set(range(start, end)) <= set(whole)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["ends"]))
def test_groups_are_those_of_trl_but_for_tails_that_do_not_meet(case):
    found = align_spans(*(extents(*ends) for ends in case["ends"]))
    theirs = list(zip(*case["groups"], strict=True))
    student, teacher = theirs[-1]
    # It makes one more group of what is left on both sides, whatever text that is.
    if not student or not teacher or case["ends"][0][-1] != case["ends"][1][-1]:
        theirs.pop()
    ours = [
        tuple(np.flatnonzero(side == number).tolist() for side in found)
        for number in range(found.student.max() + 1)
    ]
    assert ours == [(list(student), list(teacher)) for student, teacher in theirs]


def test_pieces_of_a_character_stay_together():
    # "é🙂!" as [é, 🙂, !] beside [é, two pieces of 🙂, !].
    found = align_spans(extents(2, 6, 7), extents(2, 6, 6, 7))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [0, 1, 1, 2]


def test_numbers_are_grouped():
    # "1234 " as [12, 34, space] beside [1, 2, 3, 4, space].
    found = align_spans(extents(2, 4, 5), extents(1, 2, 3, 4, 5))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [0, 0, 1, 1, 2]


def test_what_was_cut_is_in_no_group():
    # The student lost the first two of "abcdef", the teacher the first and the last two.
    found = align_spans(extents(4, 5, 6, start=2), extents(2, 3, 4, start=1))
    assert found.student.tolist() == [0, -1, -1]
    assert found.teacher.tolist() == [-1, 0, 0]


def test_a_token_that_was_left_out_spoils_its_group_alone():
    student = ByteRanges(np.array([0, 4, 6]), np.array([2, 6, 7]))  # nothing from 2 to 4
    found = align_spans(student, extents(2, 3, 6, 7))
    assert found.student.tolist() == [0, -1, 1]
    assert found.teacher.tolist() == [0, -1, -1, 1]


def test_positions_pair_what_has_the_same_number():
    found = align_positions(np.array([-1, 1, 2, 3, -1]), np.array([0, -1, 2, 3, 4]))
    assert found.student.tolist() == [-1, -1, 0, 1, -1]
    assert found.teacher.tolist() == [-1, -1, 0, 1, -1]
    assert align_positions(np.array([0]), np.array([-1])).student.tolist() == [-1]


def test_where_groups_meet():
    student = extents(1, 2, 4, 6, 7)
    teacher = extents(1, 3, 4, 5, 6, 7, 8)
    found = align_spans(student, teacher)
    assert found.student.tolist() == [0, 1, 1, 2, 3]
    assert found.teacher.tolist() == [0, 1, 1, 2, 2, 3, -1]
    assert found.select("ends") is found
    begins = found.select("begins")
    assert begins.student.tolist() == [0, 1, -1, 2, 3]
    assert begins.teacher.tolist() == [0, 1, -1, 2, -1, 3, -1]
    singles = found.select("singles")
    assert singles.student.tolist() == [0, -1, -1, -1, 1]
    assert singles.teacher.tolist() == [0, -1, -1, -1, -1, 1, -1]
