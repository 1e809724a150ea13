"""What two vocabularies are to each other, as a run looks it up."""

import pytest

from jaxdistill.data import Renderer
from jaxdistill.run.vocab_tables import make_vocab_tables
from tests import tiny
from tests.align.single_tokens import single_tokens

LOOKUPS = frozenset({"words", "places", "nearest"})
PLAIN, CHAT = (False, False), (True, True)
STUDENT, TEACHER = Renderer(tiny.tokenizer()), Renderer(tiny.sentencepiece())
SIZES = len(STUDENT.tokenizer), len(TEACHER.tokenizer)
END, EOS, END_OF_TURN = STUDENT.eos_id, TEACHER.eos_id, TEACHER.end_of_turn_id


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("ends", "twin"),
    [((PLAIN,), EOS), ((CHAT,), END_OF_TURN), ((CHAT, PLAIN), END_OF_TURN), ((PLAIN, CHAT), EOS)],
)
def test_answers_end_in_marks_that_mean_the_same(ends, twin):
    assert STUDENT.end_of_turn_id == END  # it has one mark for both
    assert EOS != END_OF_TURN
    for _ in range(2):  # once more from the file
        student, teacher = make_vocab_tables(STUDENT, TEACHER, SIZES, LOOKUPS, ends)
        assert student.exact_match[END] == twin
        assert teacher.exact_match[twin] == END
        assert teacher.nearest_token[twin] == END
        assert student.subtokens[END].tolist() == [twin, -1, -1, -1]
        place = student.buckets[END, 0]
        assert place == teacher.buckets[twin, 0] > 0
        assert student.bucket_token[place] == twin


def test_words_of_the_same_bytes_are_twins_and_lie_in_one_place():
    student, teacher = make_vocab_tables(STUDENT, TEACHER, SIZES, LOOKUPS, (PLAIN,))
    mine, theirs = STUDENT.text_token_bytes, TEACHER.text_token_bytes
    pairs = [
        (n, twin) for n, twin in enumerate(student.exact_match.tolist()) if twin >= 0 and n != END
    ]
    assert len(pairs) > 100
    for number, twin in pairs:
        assert mine[number] == theirs[twin]
        assert teacher.exact_match[twin] == number
        assert student.buckets[number, 0] == teacher.buckets[twin, 0]
        assert teacher.nearest_token[twin] == number
    for number, word in enumerate(theirs):
        assert (teacher.buckets[number, 0] > 0) == (word is not None or number == EOS)


@pytest.mark.parametrize("swap", [False, True])
def test_a_text_that_is_one_token_of_both_is_one_word(swap):
    """By what tokenizers write, which of several tokens of the same bytes may be any."""
    sides = (TEACHER, STUDENT) if swap else (STUDENT, TEACHER)
    mine, theirs = make_vocab_tables(*sides, SIZES[::-1] if swap else SIZES, LOOKUPS, (PLAIN,))
    pairs = single_tokens(*sides)
    assert len(pairs) > 50
    for left, right in pairs:
        assert mine.exact_match[left] == right
        assert theirs.exact_match[right] == left
        assert theirs.nearest_token[right] == left
        assert mine.subtokens[left].tolist() == [right, -1, -1, -1]
        assert mine.buckets[left, 0] == theirs.buckets[right, 0] > 0


def test_of_one_vocabulary_every_word_is_its_own():
    own, other = make_vocab_tables(STUDENT, None, SIZES[:1] * 2, LOOKUPS, ())
    assert own is other
    assert own.exact_match.tolist() == own.nearest_token.tolist() == list(range(SIZES[0]))
    assert own.bucket_token[own.buckets[:, 0]].tolist() == list(range(SIZES[0]))
