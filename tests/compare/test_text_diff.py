"""Words that differ are found, and no part of a text is lost."""

from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.compare.page import diff_words


def test_neighbouring_words_that_differ_are_one_piece():
    pieces = list(diff_words("The old  grey cat sat.", "The cat sat down."))
    expected = [("The ", False), ("old  grey", True), (" cat ", False), ("sat.", True)]
    assert [piece for piece in pieces if piece[0]] == expected


def test_spacing_is_no_difference():
    assert list(diff_words("a  b\nc", "a b c")) == [("a  b\nc", False)]


@given(st.text(max_size=60), st.text(max_size=60))
def test_pieces_add_up_to_the_text(text: str, reference: str):
    assert "".join(piece for piece, _ in diff_words(text, reference)) == text
    assert not any(differs for _, differs in diff_words(text, text))
