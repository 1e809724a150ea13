"""What two vocabularies are to each other, as a run looks it up."""

import pytest

from jaxdistill.data import Templates
from jaxdistill.run.vocabularies import lexicons
from tests import tiny
from tests.align.single_tokens import single_tokens

LOOKUPS = frozenset({"words", "places", "nearest"})
PLAIN, CHAT = (False, False), (True, True)
STUDENT, TEACHER = Templates(tiny.tokenizer()), Templates(tiny.sentencepiece())
SIZES = len(STUDENT.tokenizer), len(TEACHER.tokenizer)
END, EOS, END_OF_TURN = STUDENT.eos, TEACHER.eos, TEACHER.end_of_turn


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("ends", "twin"),
    [((PLAIN,), EOS), ((CHAT,), END_OF_TURN), ((CHAT, PLAIN), END_OF_TURN), ((PLAIN, CHAT), EOS)],
)
def test_answers_end_in_marks_that_mean_the_same(ends, twin):
    assert STUDENT.end_of_turn == END  # it has one mark for both
    assert EOS != END_OF_TURN
    for _ in range(2):  # once more from the file
        student, teacher = lexicons(STUDENT, TEACHER, SIZES, LOOKUPS, ends)
        assert student.twins[END] == twin
        assert teacher.twins[twin] == END
        assert teacher.nearest[twin] == END
        assert student.pieces[END].tolist() == [twin, -1, -1, -1]
        place = student.places[END, 0]
        assert place == teacher.places[twin, 0] > 0
        assert student.owners[place] == twin


def test_words_of_the_same_bytes_are_twins_and_lie_in_one_place():
    student, teacher = lexicons(STUDENT, TEACHER, SIZES, LOOKUPS, (PLAIN,))
    mine, theirs = STUDENT.words, TEACHER.words
    pairs = [(n, twin) for n, twin in enumerate(student.twins.tolist()) if twin >= 0 and n != END]
    assert len(pairs) > 100
    for number, twin in pairs:
        assert mine[number] == theirs[twin]
        assert teacher.twins[twin] == number
        assert student.places[number, 0] == teacher.places[twin, 0]
        assert teacher.nearest[twin] == number
    for number, word in enumerate(theirs):
        assert (teacher.places[number, 0] > 0) == (word is not None or number == EOS)


@pytest.mark.parametrize("swap", [False, True])
def test_a_text_that_is_one_token_of_both_is_one_word(swap):
    """By what tokenizers write, which of several tokens of the same bytes may be any."""
    sides = (TEACHER, STUDENT) if swap else (STUDENT, TEACHER)
    mine, theirs = lexicons(*sides, SIZES[::-1] if swap else SIZES, LOOKUPS, (PLAIN,))
    pairs = single_tokens(*sides)
    assert len(pairs) > 50
    for left, right in pairs:
        assert mine.twins[left] == right
        assert theirs.twins[right] == left
        assert theirs.nearest[right] == left
        assert mine.pieces[left].tolist() == [right, -1, -1, -1]
        assert mine.places[left, 0] == theirs.places[right, 0] > 0


def test_of_one_vocabulary_every_word_is_its_own():
    own, other = lexicons(STUDENT, None, SIZES[:1] * 2, LOOKUPS, ())
    assert own is other
    assert own.twins.tolist() == own.nearest.tolist() == list(range(SIZES[0]))
    assert own.owners[own.places[:, 0]].tolist() == list(range(SIZES[0]))
