"""The space that two vocabularies share: every word of text lies at what it begins with."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align import build_shared_buckets, load_or_compute, retokenize
from jaxdistill.data import Renderer

LENGTHS = {"numbers": 3}
BYTES = [bytes([n]) for n in b"abc1"]


def greedy(words):
    """A tokenizer of sorts: the longest word that fits, again and again."""
    numbers = {word: number for number, word in enumerate(words)}

    def encode(texts):
        found = []
        for text in texts:
            left, tokens = text.encode(), []
            while left:
                size = next(n for n in range(len(left), 0, -1) if left[:n] in numbers)
                tokens.append(numbers[left[:size]])
                left = left[size:]
            found.append(tokens)
        return found

    return encode


def both(student, teacher, marks=()):
    swapped = [(theirs, mine) for mine, theirs in marks]
    return build_shared_buckets(
        retokenize(student, teacher, greedy(teacher), marks),
        retokenize(teacher, student, greedy(student), swapped),
    )


def names(found, teacher, places):
    return [teacher[found.owners[place]] for place in places if place > 0]


def test_words_lie_at_what_they_begin_with():
    student = [*BYTES, b"ab", b"12"]
    teacher = [*BYTES, b"abc", b"bc"]
    found = both([*student[:-1], b"111"], teacher)
    assert names(found, teacher, found.student_buckets[4]) == [b"a", b"b"]
    assert names(found, teacher, found.student_buckets[5]) == [b"1", b"1", b"1"]
    # The student would begin "abc" with "ab", which the teacher begins with "a".
    assert names(found, teacher, [found.teacher_buckets[4]]) == [b"a"]
    assert names(found, teacher, [found.teacher_buckets[5]]) == [b"b"]


def test_marks_share_the_first_place_unless_they_mean_the_same():
    student, teacher = [None, None, *BYTES], [*BYTES, None, None]
    found = both(student, teacher, marks=[(1, 5)])
    assert found.student_buckets[0].tolist() == [0, -1, -1, -1]
    assert found.teacher_buckets[4] == 0
    assert found.bucket_token[found.student_buckets[1, 0]] == 5
    assert found.teacher_buckets[5] == found.student_buckets[1, 0]


words = st.lists(st.text("abc1", min_size=2, max_size=5).map(str.encode), max_size=12, unique=True)


@given(words, words)
def test_a_place_is_the_beginning_of_every_word_in_it(mine, theirs):
    student, teacher = [*BYTES, *mine], [*theirs, *BYTES]
    found = both(student, teacher)
    assert found.bucket_token[0] == -1
    for word, place in zip(
        [*student, *teacher], [*found.student_buckets[:, 0], *found.teacher_buckets], strict=True
    ):
        assert place > 0
        assert word.startswith(teacher[found.bucket_token[place]])
    assert set(found.student_buckets[:, 0]) == set(range(1, len(found.bucket_token)))
    # A word that both know is a place of its own.
    for word in set(student) & set(teacher):
        place = found.student_buckets[student.index(word), 0]
        assert place == found.teacher_buckets[teacher.index(word)]
        assert teacher[found.bucket_token[place]] == word


@pytest.mark.parametrize("swap", [False, True])
def test_of_real_kinds_of_tokenizers(swap):
    sides = [Renderer(tiny.tokenizer()), Renderer(tiny.sentencepiece())]
    student, teacher = reversed(sides) if swap else sides
    mine, theirs = student.token_bytes, teacher.token_bytes
    found = build_shared_buckets(
        retokenize(mine, theirs, teacher.encode_batch),
        retokenize(theirs, mine, student.encode_batch),
    )
    for words, places in ((mine, found.student_buckets[:, 0]), (theirs, found.teacher_buckets)):
        for word, place in zip(words, places, strict=True):
            if word is None:
                assert place == 0
            elif place:
                assert word.startswith(theirs[found.bucket_token[place]])
    # Either alphabet has all bytes, so that nothing but marks is left out.
    assert all(found.student_buckets[number, 0] > 0 for number, word in enumerate(mine) if word)


def test_what_is_kept_is_made_once(tmp_path):
    made = []

    def make():
        made.append(None)
        return {"numbers": np.arange(3)}

    path = tmp_path / "a" / "b.npz"
    for _ in range(2):
        np.testing.assert_array_equal(load_or_compute(path, make, LENGTHS)["numbers"], [0, 1, 2])
    assert len(made) == 1
    path.write_bytes(path.read_bytes()[:50])  # torn
    assert load_or_compute(path, make, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert len(made) == 2
    path.parent.joinpath("file").write_text("")
    assert load_or_compute(path.parent / "file" / "c.npz", make, LENGTHS)["numbers"].tolist() == [
        0,
        1,
        2,
    ]
    assert [one.name for one in path.parent.iterdir()] in (["b.npz", "file"], ["file", "b.npz"])


def test_what_is_damaged_or_another_vocabularys_is_made_again(tmp_path):
    made = []

    def make():
        made.append(True)
        return {"numbers": np.arange(3)}

    path, random = tmp_path / "a.npz", np.random.default_rng(0)
    whole = load_or_compute(path, make, LENGTHS) and path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        assert load_or_compute(path, make, LENGTHS)["numbers"].tolist() == [0, 1, 2]
    assert len(made) > 50  # the other bits are those of dates
    for arrays in ({}, {"others": np.arange(3)}, {"numbers": np.arange(2)}):
        np.savez(path, **arrays)
        assert load_or_compute(path, make, LENGTHS)["numbers"].tolist() == [0, 1, 2]
