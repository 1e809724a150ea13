"""Tables computed from the bytes of a vocabulary's tokens."""

from jaxdistill import align


def test_white_space_and_special_tokens_are_word_boundaries():
    tokens = [b"ab", b"b", None, b" cbca", b"\n", b"b c"]
    assert align.word_boundaries(tokens).tolist() == [False, False, True, True, True, False]
