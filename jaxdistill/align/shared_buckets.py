"""Shared buckets of two vocabularies: tokens of both, by the text that they begin with.

A bucket is a teacher token that some student token begins with, as the teacher's tokenizer would
write it. A teacher token that begins no student token falls into the bucket of what the student
would begin it with. So only special tokens are left out; they share bucket 0 unless both
vocabularies have one of the same meaning. The idea is X-Token's (NVIDIA, 2026,
https://arxiv.org/abs/2605.21699); its rules for weights are not known to us.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxdistill.align.vocabulary import SpecialPairs, TokenBytes

MAX_SUBTOKENS = 4
"""Number of subtokens of a token that are kept."""

Subtokens = Sequence[tuple[int, ...]]
"""The other vocabulary's tokens that each token is written in; empty for special tokens."""


class SharedBuckets(NamedTuple):
    """Buckets of both vocabularies.

    Attributes:
        student_buckets: Buckets of each student token's subtokens, in order; -1 after the last.
            The first is 0 for special tokens.
        teacher_buckets: Bucket of each teacher token.
        bucket_token: Teacher token that names each bucket; -1 for bucket 0.
        subtokens: First teacher tokens that each student token is written in; -1 after the last.
    """

    student_buckets: Int[np.ndarray, "V N"]
    teacher_buckets: Int[np.ndarray, " W"]
    bucket_token: Int[np.ndarray, " U"]
    subtokens: Int[np.ndarray, "V N"]


def build_shared_buckets(
    student_subtokens: Subtokens, teacher_subtokens: Subtokens
) -> SharedBuckets:
    """Build the shared buckets of two vocabularies, each written in the other's tokens."""
    first_subtokens = {subtokens[0] for subtokens in student_subtokens if subtokens}
    bucket_token = np.array([-1, *sorted(first_subtokens)])
    teacher_buckets = np.zeros(len(teacher_subtokens), dtype=np.int32)
    teacher_buckets[bucket_token[1:]] = np.arange(1, len(bucket_token))
    for token_id, subtokens in enumerate(teacher_subtokens):
        if teacher_buckets[token_id] == 0 and subtokens and student_subtokens[subtokens[0]]:
            teacher_buckets[token_id] = teacher_buckets[student_subtokens[subtokens[0]][0]]
    padded = np.full((len(student_subtokens), MAX_SUBTOKENS), -1, dtype=np.int32)
    for token_id, subtokens in enumerate(student_subtokens):
        padded[token_id, : len(subtokens)] = subtokens[:MAX_SUBTOKENS]
    student_buckets = np.where(padded >= 0, teacher_buckets[padded], -1)
    student_buckets[:, 0] = np.maximum(student_buckets[:, 0], 0)
    return SharedBuckets(student_buckets, teacher_buckets, bucket_token.astype(np.int32), padded)


def retokenize(
    tokens: TokenBytes,
    other_tokens: TokenBytes,
    encode: Callable[[list[str]], list[list[int]]],
    special_pairs: SpecialPairs = (),
) -> Subtokens:
    """Write each token of a vocabulary in tokens of another.

    A token of the same bytes is used alone. Other tokens are encoded as text by `encode`, the other
    tokenizer without special tokens. Where they are not text, or the tokenizer changes it, they are
    split from the left into the longest tokens.
    """
    # Reversed, so that of several tokens of the same bytes the first stays.
    other_ids = {token: i for i, token in reversed(list(enumerate(other_tokens))) if token}
    subtokens: list[tuple[int, ...]] = [
        (other_ids[token],) if token in other_ids else () for token in tokens
    ]
    pending = {i: token for i, token in enumerate(tokens) if token and not subtokens[i]}
    decoded = {i: token.decode(errors="ignore") for i, token in pending.items()}
    texts = {i: text for i, text in decoded.items() if text.encode() == pending[i]}
    encoded = dict(zip(texts, encode(list(texts.values())), strict=True))
    for token_id, token in pending.items():
        ids = encoded.get(token_id, [])
        is_same_text = b"".join(other_tokens[i] or b"" for i in ids) == token
        subtokens[token_id] = tuple(ids) if is_same_text else _longest_match(token, other_ids)
    for token_id, other_id in special_pairs:
        subtokens[token_id] = (other_id,)
    return subtokens


def _longest_match(token: bytes, token_ids: dict[bytes, int]) -> tuple[int, ...]:
    """Split a token from the left into the longest known tokens; stop where none fits."""
    subtokens = []
    while token:
        size = next((n for n in range(len(token), 0, -1) if token[:n] in token_ids), None)
        if size is None:
            break
        subtokens.append(token_ids[token[:size]])
        token = token[size:]
    return tuple(subtokens)
