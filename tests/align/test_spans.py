"""Groups cover every byte that both sides reach once, in order, and cannot be made smaller."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align.spans import spans


@st.composite
def tokenizations(draw):
    """The ends of two tokenizations of one text, some tokens of no bytes, one side perhaps cut."""
    size = draw(st.integers(1, 40))
    sides = []
    for _ in range(2):
        cuts = draw(st.lists(st.integers(0, size), max_size=30))
        whole = sorted([*cuts, size])
        sides.append(np.array(whole[: draw(st.integers(0, len(whole)))] or [size]))
    return sides


@given(tokenizations())
def test_groups_cover_the_same_bytes(sides):
    student, teacher = sides
    found = spans(student, teacher)
    assert (student[found.student] == teacher[found.teacher]).all()
    assert (np.diff(found.student) > 0).all()
    assert (np.diff(found.teacher) > 0).all()
    # No token that reaches a group's last byte is left to the next group.
    for side, last in ((student, found.student), (teacher, found.teacher)):
        following = last[last + 1 < len(side)] + 1
        assert (side[following] > side[following - 1]).all()
    # No smaller groups: two sides meet on no other byte.
    inside = set(student.tolist()) & set(teacher.tolist()) - {0}
    assert inside == set(student[found.student].tolist())


def test_pieces_of_a_character_stay_together():
    # "é🙂!" as [é, 🙂, !] beside [é, two pieces of 🙂, !].
    found = spans(np.array([2, 6, 7]), np.array([2, 6, 6, 7]))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [0, 2, 3]


def test_numbers_are_grouped():
    # "1234 " as [12, 34, space] beside [1, 2, 3, 4, space].
    found = spans(np.array([2, 4, 5]), np.array([1, 2, 3, 4, 5]))
    assert found.student.tolist() == [0, 1, 2]
    assert found.teacher.tolist() == [1, 3, 4]
