"""What is marked is what differs, and nothing of an answer is lost."""

from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.compare.text_diff import diff_words


def test_neighbouring_words_that_differ_are_one_piece():
    pieces = list(diff_words("The old  grey cat sat.", "The cat sat down."))
    assert pieces == [("The ", False), ("old  grey", True), (" cat ", False), ("sat.", True)]


def test_spacing_is_no_difference():
    assert list(diff_words("a  b\nc", "a b c")) == [("a  b\nc", False)]


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_is_lost(answer: str, other: str):
    assert "".join(piece for piece, _ in diff_words(answer, other)) == answer
    assert not any(is_marked for _, is_marked in diff_words(answer, answer))
