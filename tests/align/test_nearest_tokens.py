"""Nearest tokens, compared with a table of all edit distances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import align
from jaxdistill.align import nearest_tokens

VOCABULARIES = st.lists(st.none() | st.text("aé東", max_size=6).map(str.encode), max_size=12)


def edit_distance(left, right):
    """Return the distance by the textbook's table (Wagner and Fischer, 1974), row by row."""
    row = list(range(len(right) + 1))
    for count, byte in enumerate(left, start=1):
        diagonal, row[0] = row[0], count
        for index, other in enumerate(right, start=1):
            substituted = diagonal + (byte != other)
            diagonal, row[index] = row[index], min(substituted, row[index] + 1, row[index - 1] + 1)
    return row[-1]


def nearest_by_search(token, others):
    ranked = [
        (edit_distance(token, other), len(other), token_id)
        for token_id, other in enumerate(others)
        if other is not None
    ]
    return min(ranked)[-1] if ranked else -1


@given(VOCABULARIES, VOCABULARIES)
def test_every_token_has_the_nearest_of_all(student, teacher):
    exact_match, _ = align.exact_matches(student, teacher)
    nearest = nearest_tokens(student, teacher, exact_match)
    assert nearest.shape == exact_match.shape
    assert nearest.dtype == exact_match.dtype
    expected = [-1 if token is None else nearest_by_search(token, teacher) for token in student]
    assert nearest.tolist() == expected


@pytest.mark.parametrize(
    ("token", "others", "expected"),
    [
        (b"kitten", [b"sitting", b"mitten", b"kitchen"], 1),
        (b"cat", [b"cats", b"at", b"bat"], 1),  # all at distance 1: the shortest
        (b"cat", [b"chat", b"hat", b"bat"], 1),  # two of the same length: the first
        (b"aaaa", [b"bbbb", b"aaaaaaa", b"aa"], 2),  # another length can be nearer
        ("é".encode(), [b"e", "è".encode()], 1),  # one byte of two differs
        (b"\xe6\x9d", ["東".encode(), b"\xe6"], 1),  # a part of a character
        (b"", [b"ab", b"a"], 1),
        (b"a", [], -1),
        (b"a", [None], -1),
    ],
)
def test_known_tokens(token, others, expected):
    assert nearest_tokens([token], others, np.array([-1])).tolist() == [expected]


def test_exact_matches_are_kept_and_special_tokens_have_no_other():
    student, teacher = [None, None, b"the", b"hree"], [b"the", None, b"three"]
    exact_match = np.array([1, -1, 0, -1])
    assert nearest_tokens(student, teacher, exact_match).tolist() == [1, -1, 0, 2]
    assert exact_match.tolist() == [1, -1, 0, -1]


def test_more_tokens_than_a_block():
    others = [f"{number:03}".encode() for number in range(400)]
    tokens = [other + b"." for other in others]
    nearest = nearest_tokens(tokens, others, np.full(400, -1))
    assert nearest.tolist() == list(range(400))
