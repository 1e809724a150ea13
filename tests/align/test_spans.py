"""Groups cover every byte between two meetings once, in order, and cannot be made smaller."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align.spans import positions, spans

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_spans.json").read_text())


@st.composite
def tokenizations(draw):
    """Where two tokenizations of one text start and end, some tokens of no bytes, sides cut."""
    size = draw(st.integers(1, 40))
    ends, starts = [], []
    for _ in range(2):
        cuts = draw(st.lists(st.integers(0, size), max_size=30))
        whole = sorted([*cuts, size])
        first = draw(st.integers(0, len(whole)))
        ends.append(np.array(whole[first : draw(st.integers(first, len(whole)))], dtype=int))
        starts.append(whole[first - 1] if first else 0)
    return ends, tuple(starts)


@given(tokenizations())
def test_groups_cover_the_same_bytes(made):
    (student, teacher), starts = made
    found = spans(student, teacher, starts=starts)
    covered = []
    for ends, groups, start in zip((student, teacher), found, starts, strict=True):
        before = np.concatenate([[start], ends[:-1]]).astype(int)
        covered.append(
            [
                (before[groups == n].min(), ends[groups == n].max())
                for n in range(max(groups.max(initial=-1), 0) + 1)
                if (groups == n).any()
            ]
        )
        grouped = groups[groups >= 0]
        assert (np.diff(grouped) >= 0).all()
    assert covered[0] == covered[1]
    # One group begins where the one before it ends, and has at least a byte.
    for (_, end), (start, _) in zip(covered[0], covered[0][1:], strict=False):
        assert end == start
    assert all(start < end for start, end in covered[0])
    # No smaller groups: the two sides meet inside of none.
    meetings = ({starts[0]} | set(student.tolist())) & ({starts[1]} | set(teacher.tolist()))
    assert len(covered[0]) == max(len(meetings) - 1, 0)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["ends"]))
def test_groups_are_those_of_trl_but_for_tails_that_do_not_meet(case):
    found = spans(*map(np.array, case["ends"]))
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
    found = spans(np.array([2, 6, 7]), np.array([2, 6, 6, 7]))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [0, 1, 1, 2]


def test_numbers_are_grouped():
    # "1234 " as [12, 34, space] beside [1, 2, 3, 4, space].
    found = spans(np.array([2, 4, 5]), np.array([1, 2, 3, 4, 5]))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [0, 0, 1, 1, 2]


def test_what_was_cut_is_in_no_group():
    # The student lost the first two of "abcdef", the teacher the first and the last two.
    found = spans(np.array([4, 5, 6]), np.array([2, 3, 4]), starts=(2, 1))
    assert found.student.tolist() == [0, -1, -1]
    assert found.teacher.tolist() == [-1, 0, 0]


def test_positions_pair_what_counts():
    found = positions(
        np.array([False, True, True, True, False]), np.array([True, False, True, True, True])
    )
    assert found.student.tolist() == [-1, 0, 1, 2, -1]
    assert found.teacher.tolist() == [0, -1, 1, 2, -1]
    assert positions(np.array([True]), np.array([False])).student.tolist() == [-1]
