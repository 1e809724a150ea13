"""Shared buckets of two vocabularies: every token lies in the bucket of what it begins with."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align import build_shared_buckets, retokenize
from jaxdistill.data import Renderer

BYTES = [bytes([n]) for n in b"abc1"]


def greedy_encoder(tokens):
    """Return an encoder that takes the longest token that fits, again and again."""
    token_ids = {token: token_id for token_id, token in enumerate(tokens)}

    def encode(texts):
        encoded = []
        for text in texts:
            rest, ids = text.encode(), []
            while rest:
                size = next(n for n in range(len(rest), 0, -1) if rest[:n] in token_ids)
                ids.append(token_ids[rest[:size]])
                rest = rest[size:]
            encoded.append(ids)
        return encoded

    return encode


def shared_buckets(student, teacher, special_pairs=()):
    swapped = [(teacher_id, student_id) for student_id, teacher_id in special_pairs]
    return build_shared_buckets(
        retokenize(student, teacher, greedy_encoder(teacher), special_pairs),
        retokenize(teacher, student, greedy_encoder(student), swapped),
    )


def names(shared, teacher, buckets):
    return [teacher[shared.bucket_token[bucket]] for bucket in buckets if bucket > 0]


def test_tokens_lie_in_the_bucket_that_they_begin_with():
    student = [*BYTES, b"ab", b"111"]
    teacher = [*BYTES, b"abc", b"bc"]
    shared = shared_buckets(student, teacher)
    assert names(shared, teacher, shared.student_buckets[4]) == [b"a", b"b"]
    assert names(shared, teacher, shared.student_buckets[5]) == [b"1", b"1", b"1"]
    # The student would begin "abc" with "ab", which the teacher begins with "a".
    assert names(shared, teacher, [shared.teacher_buckets[4]]) == [b"a"]
    assert names(shared, teacher, [shared.teacher_buckets[5]]) == [b"b"]


def test_special_tokens_share_bucket_0_unless_they_mean_the_same():
    student, teacher = [None, None, *BYTES], [*BYTES, None, None]
    shared = shared_buckets(student, teacher, special_pairs=[(1, 5)])
    assert shared.student_buckets[0].tolist() == [0, -1, -1, -1]
    assert shared.teacher_buckets[4] == 0
    assert shared.bucket_token[shared.student_buckets[1, 0]] == 5
    assert shared.teacher_buckets[5] == shared.student_buckets[1, 0]


def test_the_subtokens_of_a_token_make_up_its_text():
    teacher = [b"a", b"b", b" c", b"bc"]
    student = [b"ab", b"b", None, b" cbca", b"\n"]

    def encode(texts):
        ids = {" cbca": [2, 3, 0], "ab": [0, 1]}
        return [ids.get(text, []) for text in texts]

    def encode_nothing(texts):
        return [[] for _ in texts]

    shared = build_shared_buckets(
        retokenize(student, teacher, encode), retokenize(teacher, student, encode_nothing)
    )
    for token, subtokens in zip(student, shared.subtokens, strict=True):
        text = b"".join(teacher[subtoken] for subtoken in subtokens if subtoken >= 0)
        assert text == (token if token not in (None, b"\n") else b"")
    # A subtoken that begins no student token lies in the bucket of what the student begins it with.
    np.testing.assert_array_equal(
        shared.student_buckets[:, 0] > 0, [True, True, False, True, False]
    )
    assert shared.student_buckets[3].tolist()[3] == -1


TOKENS = st.lists(st.text("abc1", min_size=2, max_size=5).map(str.encode), max_size=12, unique=True)


@given(TOKENS, TOKENS)
def test_every_token_begins_with_the_token_of_its_bucket(student_tokens, teacher_tokens):
    student, teacher = [*BYTES, *student_tokens], [*teacher_tokens, *BYTES]
    shared = shared_buckets(student, teacher)
    assert shared.bucket_token[0] == -1
    buckets = [*shared.student_buckets[:, 0], *shared.teacher_buckets]
    for token, bucket in zip([*student, *teacher], buckets, strict=True):
        assert bucket > 0
        assert token.startswith(teacher[shared.bucket_token[bucket]])
    assert set(shared.student_buckets[:, 0]) == set(range(1, len(shared.bucket_token)))
    # A token of both vocabularies has a bucket of its own.
    for token in set(student) & set(teacher):
        bucket = shared.student_buckets[student.index(token), 0]
        assert bucket == shared.teacher_buckets[teacher.index(token)]
        assert teacher[shared.bucket_token[bucket]] == token


@pytest.mark.parametrize("swap", [False, True])
def test_byte_level_and_sentencepiece_tokenizers_share_buckets(swap):
    renderers = [Renderer(tiny.tokenizer()), Renderer(tiny.sentencepiece())]
    student, teacher = reversed(renderers) if swap else renderers
    shared = build_shared_buckets(
        retokenize(student.token_bytes, teacher.token_bytes, teacher.encode_batch),
        retokenize(teacher.token_bytes, student.token_bytes, student.encode_batch),
    )
    for tokens, buckets in (
        (student.token_bytes, shared.student_buckets[:, 0]),
        (teacher.token_bytes, shared.teacher_buckets),
    ):
        for token, bucket in zip(tokens, buckets, strict=True):
            if token is None:
                assert bucket == 0
            elif bucket:
                assert token.startswith(teacher.token_bytes[shared.bucket_token[bucket]])
    # Both vocabularies have all bytes, so that only special tokens are left out.
    student_buckets = zip(student.token_bytes, shared.student_buckets[:, 0], strict=True)
    assert all(bucket > 0 for token, bucket in student_buckets if token)
