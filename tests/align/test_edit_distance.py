"""The nearest word is the one that a table of all edit distances says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import align
from jaxdistill.align import nearest_tokens

VOCABULARIES = st.lists(st.none() | st.text("aé東", max_size=6).map(str.encode), max_size=12)


def edit_distance(mine, theirs):
    """The textbook's table (Wagner and Fischer, 1974), row by row."""
    row = list(range(len(theirs) + 1))
    for count, letter in enumerate(mine, start=1):
        before, row[0] = row[0], count
        for place, other in enumerate(theirs, start=1):
            swapped = before + (letter != other)
            before, row[place] = row[place], min(swapped, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def nearest(word, words):
    ranked = [
        (edit_distance(word, other), len(other), number)
        for number, other in enumerate(words)
        if other is not None
    ]
    return min(ranked)[-1] if ranked else -1


@given(VOCABULARIES, VOCABULARIES)
def test_each_word_has_the_nearest_of_all(student, teacher):
    twins, _ = align.exact_matches(student, teacher)
    found = nearest_tokens(student, teacher, twins)
    assert found.shape == twins.shape
    assert found.dtype == twins.dtype
    expected = [-1 if word is None else nearest(word, teacher) for word in student]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("word", "words", "expected"),
    [
        (b"kitten", [b"sitting", b"mitten", b"kitchen"], 1),
        (b"cat", [b"cats", b"at", b"bat"], 1),  # all differ in one byte: the shortest
        (b"cat", [b"chat", b"hat", b"bat"], 1),  # of two as short: the first
        (b"aaaa", [b"bbbb", b"aaaaaaa", b"aa"], 2),  # a length further off can be nearer
        ("é".encode(), [b"e", "è".encode()], 1),  # one byte of two is another
        (b"\xe6\x9d", ["東".encode(), b"\xe6"], 1),  # a piece of a character
        (b"", [b"ab", b"a"], 1),
        (b"a", [], -1),
        (b"a", [None], -1),
    ],
)
def test_known_words(word, words, expected):
    assert nearest_tokens([word], words, np.array([-1])).tolist() == [expected]


def test_twins_stay_and_marks_have_no_others():
    student, teacher = [None, None, b"the", b"hree"], [b"the", None, b"three"]
    twins = np.array([1, -1, 0, -1])
    assert nearest_tokens(student, teacher, twins).tolist() == [1, -1, 0, 2]
    assert twins.tolist() == [1, -1, 0, -1]


def test_more_words_than_are_compared_at_a_time():
    words = [f"{number:03}".encode() for number in range(400)]
    near = [word + b"." for word in words]
    found = nearest_tokens(near, words, np.full(400, -1))
    assert found.tolist() == list(range(400))
