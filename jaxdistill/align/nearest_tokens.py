"""Nearest tokens of another vocabulary by edit distance (MinED).

Wan et al. (FuseLLM), 2024, https://arxiv.org/abs/2401.10491.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from jaxdistill.align.vocabulary import TokenBytes

_BLOCK_TOKENS = 128
"""Number of tokens compared at a time; bounds the memory and costs no time."""

_MAX_DISTANCE = 2**30


def nearest_tokens(
    tokens: TokenBytes, other_tokens: TokenBytes, exact_match: Int[np.ndarray, " V"]
) -> Int[np.ndarray, " V"]:
    """Return the other vocabulary's token of the least edit distance, in bytes, for each token.

    An exact match is the nearest token. Ties go to the shortest token, then to the lowest id, which
    most tokenizers give to the most frequent. Special tokens have exact matches only. -1 is none,
    in `exact_match` and in the result.
    """
    nearest = exact_match.copy()
    other_ids = _ids_by_length(other_tokens, range(len(other_tokens)))
    unmatched = _ids_by_length(tokens, np.flatnonzero(exact_match < 0).tolist())
    for length, ids in unmatched.items():
        for start in range(0, len(ids), _BLOCK_TOKENS):
            block = ids[start : start + _BLOCK_TOKENS]
            nearest[block] = _nearest_of_length(
                [tokens[token_id] for token_id in block], length, other_tokens, other_ids
            )
    return nearest


def _ids_by_length(tokens: TokenBytes, token_ids: Sequence[int]) -> dict[int, list[int]]:
    """Group ids by the token's number of bytes, in order; special tokens are left out."""
    ids: dict[int, list[int]] = {}
    for token_id in token_ids:
        token = tokens[token_id]
        if token is not None:
            ids.setdefault(len(token), []).append(token_id)
    return ids


def _nearest_of_length(
    tokens: TokenBytes, length: int, other_tokens: TokenBytes, other_ids: dict[int, list[int]]
) -> Int[np.ndarray, " N"]:
    """Return the nearest token's id for each of some tokens of one length; -1 for none.

    The edit distance is at least the difference in length, so few lengths have to be compared.
    """
    nearest = np.full(len(tokens), -1)
    best, best_length = (np.full(len(tokens), _MAX_DISTANCE) for _ in range(2))
    for other_length in sorted(other_ids, key=lambda other: (abs(other - length), other)):
        pending = np.flatnonzero(best >= abs(other_length - length))
        if not len(pending):
            break
        ids = other_ids[other_length]
        distances = process.cdist(
            [tokens[index] for index in pending.tolist()],
            [other_tokens[token_id] for token_id in ids],
            scorer=Levenshtein.distance,
            score_cutoff=int(best[pending].max()),
            dtype=np.int32,
        )
        first = distances.argmin(axis=1)
        distance = distances[np.arange(len(pending)), first]
        is_nearer = distance < best[pending]
        is_nearer |= (distance == best[pending]) & (other_length < best_length[pending])
        improved = pending[is_nearer]
        best[improved], best_length[improved] = distance[is_nearer], other_length
        nearest[improved] = np.array(ids)[first[is_nearer]]
    return nearest
