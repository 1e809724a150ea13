"""What is looked up of two vocabularies once for a run: where words begin, and their pieces."""

import numpy as np

from jaxdistill import align

TEACHER = [b"a", b"b", b" c", b"bc"]
STUDENT = [b"ab", b"b", None, b" cbca", b"\n"]


def test_words_begin_with_white_space_and_at_marks():
    found = [align.word_boundaries(words).tolist() for words in (TEACHER, STUDENT)]
    assert found == [[False, False, True, False], [False, False, True, True, True]]


def test_the_pieces_of_a_word_put_it_together():
    def spell(texts):
        """A tokenizer that splits as the teacher's vocabulary does, from the left."""
        longest = {" cbca": [2, 3, 0], "ab": [0, 1]}
        return [longest.get(text, []) for text in texts]

    def none(texts):
        return [[] for _ in texts]

    found = align.build_shared_buckets(
        align.retokenize(STUDENT, TEACHER, spell), align.retokenize(TEACHER, STUDENT, none)
    )
    for word, pieces in zip(STUDENT, found.subtokens, strict=True):
        said = b"".join(TEACHER[piece] for piece in pieces if piece >= 0)
        assert said == (word if word not in (None, b"\n") else b"")
    # A piece that no word of the student's begins with lies where the student would begin it.
    np.testing.assert_array_equal(found.student_buckets[:, 0] > 0, [True, True, False, True, False])
    assert found.student_buckets[3].tolist()[3] == -1
