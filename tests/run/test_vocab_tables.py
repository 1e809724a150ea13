"""Vocabulary tables of two tokenizers, and their cache."""

import numpy as np
import pytest

from jaxdistill.data import Renderer
from jaxdistill.run.vocab_tables import load_or_compute, make_vocab_tables
from tests import tiny
from tests.align.single_tokens import single_tokens

VOCAB_NEEDS = frozenset({"exact_match", "buckets", "nearest_token"})
PLAIN, CHAT = (False, False), (True, True)
STUDENT, TEACHER = Renderer(tiny.tokenizer()), Renderer(tiny.sentencepiece())
SIZES = len(STUDENT.tokenizer), len(TEACHER.tokenizer)
END, EOS, END_OF_TURN = STUDENT.eos_id, TEACHER.eos_id, TEACHER.end_of_turn_id
LENGTHS = {"numbers": 3}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("chat_kinds", "expected"),
    [((PLAIN,), EOS), ((CHAT,), END_OF_TURN), ((CHAT, PLAIN), END_OF_TURN), ((PLAIN, CHAT), EOS)],
)
def test_special_tokens_that_end_completions_match(chat_kinds, expected):
    assert STUDENT.end_of_turn_id == END  # one special token for both
    assert EOS != END_OF_TURN
    for _ in range(2):  # computed, then from the cache
        student, teacher = make_vocab_tables(STUDENT, TEACHER, SIZES, VOCAB_NEEDS, chat_kinds)
        assert student.exact_match[END] == expected
        assert teacher.exact_match[expected] == END
        assert teacher.nearest_token[expected] == END
        assert student.subtokens[END].tolist() == [expected, -1, -1, -1]
        bucket = student.buckets[END, 0]
        assert bucket == teacher.buckets[expected, 0] > 0
        assert student.bucket_token[bucket] == expected


def test_tokens_of_the_same_bytes_match_and_share_a_bucket():
    student, teacher = make_vocab_tables(STUDENT, TEACHER, SIZES, VOCAB_NEEDS, (PLAIN,))
    student_bytes, teacher_bytes = STUDENT.text_token_bytes, TEACHER.text_token_bytes
    pairs = [
        (token_id, match)
        for token_id, match in enumerate(student.exact_match.tolist())
        if match >= 0 and token_id != END
    ]
    assert len(pairs) > 100
    for token_id, match in pairs:
        assert student_bytes[token_id] == teacher_bytes[match]
        assert teacher.exact_match[match] == token_id
        assert student.buckets[token_id, 0] == teacher.buckets[match, 0]
        assert teacher.nearest_token[match] == token_id
    for token_id, token in enumerate(teacher_bytes):
        has_bucket = teacher.buckets[token_id, 0] > 0
        assert has_bucket == (token is not None or token_id == EOS)


@pytest.mark.parametrize("swap", [False, True])
def test_a_text_that_is_a_single_token_for_both_matches(swap):
    """Texts are encoded, so of several tokens of the same bytes any may be the one used."""
    sides = (TEACHER, STUDENT) if swap else (STUDENT, TEACHER)
    sizes = SIZES[::-1] if swap else SIZES
    student, teacher = make_vocab_tables(*sides, sizes, VOCAB_NEEDS, (PLAIN,))
    pairs = single_tokens(*sides)
    assert len(pairs) > 50
    for student_id, teacher_id in pairs:
        assert student.exact_match[student_id] == teacher_id
        assert teacher.exact_match[teacher_id] == student_id
        assert teacher.nearest_token[teacher_id] == student_id
        assert student.subtokens[student_id].tolist() == [teacher_id, -1, -1, -1]
        assert student.buckets[student_id, 0] == teacher.buckets[teacher_id, 0] > 0


def test_every_token_of_a_shared_vocabulary_matches_itself():
    student, teacher = make_vocab_tables(STUDENT, None, SIZES[:1] * 2, VOCAB_NEEDS, ())
    assert student is teacher
    assert student.exact_match.tolist() == student.nearest_token.tolist() == list(range(SIZES[0]))
    buckets = student.buckets[:, 0]
    assert student.bucket_token[buckets].tolist() == list(range(SIZES[0]))


@pytest.mark.parametrize("teacher", [TEACHER, None])
def test_byte_fallback_tokens_are_no_word_boundaries(teacher):
    tables = make_vocab_tables(TEACHER, teacher, SIZES[1:] * 2, frozenset({"word_boundaries"}), ())
    names = TEACHER.tokenizer.convert_ids_to_tokens(range(SIZES[1]))
    special = TEACHER.tokenizer.added_tokens_decoder
    white_space = ("▁", "\n", *(f"<0x{byte:02X}>" for byte in b"\t\n\v\f\r "))
    expected = [i in special or name.startswith(white_space) for i, name in enumerate(names)]
    assert "<0x41>" in names
    for side in tables:
        assert side.is_word_boundary.tolist() == expected


def test_cached_arrays_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(None)
        return {"numbers": np.arange(3)}

    path = tmp_path / "a" / "b.npz"
    for _ in range(2):
        assert load_or_compute(path, compute, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:50])  # truncated
    assert load_or_compute(path, compute, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert len(calls) == 2
    path.parent.joinpath("file").write_text("")
    unwritable = path.parent / "file" / "c.npz"
    assert load_or_compute(unwritable, compute, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert sorted(file.name for file in path.parent.iterdir()) == ["b.npz", "file"]


def test_damaged_or_unexpected_cached_arrays_are_computed_again(tmp_path):
    calls = []

    def compute():
        calls.append(None)
        return {"numbers": np.arange(3)}

    path, random = tmp_path / "a.npz", np.random.default_rng(0)
    whole = load_or_compute(path, compute, LENGTHS) and path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        assert load_or_compute(path, compute, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert len(calls) > 50  # other bits belong to dates
    for arrays in ({}, {"others": np.arange(3)}, {"numbers": np.arange(2)}):
        np.savez(path, **arrays)
        assert load_or_compute(path, compute, LENGTHS)["numbers"].tolist() == [0, 1, 2]
