"""The other side's word that is most alike, for words that it does not have itself.

Wan et al., "Knowledge Fusion of Large Language Models" (FuseLLM), 2024,
https://arxiv.org/abs/2401.10491, call it MinED: the minimum edit distance.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

_BLOCK_TOKENS = 128
"""How many words are compared at a time: it bounds the memory, and costs no time."""

_MAX_DISTANCE = 2**30


def nearest_tokens(
    tokens: Sequence[bytes | None],
    other_tokens: Sequence[bytes | None],
    exact_match: Int[np.ndarray, " V"],
) -> Int[np.ndarray, " V"]:
    """The other vocabulary's word of the least edit distance, in bytes, for each word.

    A word's twin is its nearest. Of several that are as near it is the shortest, and of those the
    first, which most tokenizers have for the most frequent. Marks stand for no text, and have their
    twins alone; -1 where there is none.

    Args:
        words: The bytes of each word; None for marks.
        others: The same of the other vocabulary.
        twins: The other's word of the same bytes, and the mark of the same meaning; -1 for none.
    """
    found = exact_match.copy()
    theirs = _ids_by_length(other_tokens, range(len(other_tokens)))
    for length, numbers in _ids_by_length(tokens, np.flatnonzero(exact_match < 0).tolist()).items():
        for start in range(0, len(numbers), _BLOCK_TOKENS):
            block = numbers[start : start + _BLOCK_TOKENS]
            found[block] = _nearest_of_length(
                [tokens[number] for number in block], length, other_tokens, theirs
            )
    return found


def _ids_by_length(
    tokens: Sequence[bytes | None], token_ids: Sequence[int]
) -> dict[int, list[int]]:
    """The numbers of those that are no marks, in their order, by how many bytes they have."""
    found: dict[int, list[int]] = {}
    for number in token_ids:
        word = tokens[number]
        if word is not None:
            found.setdefault(len(word), []).append(number)
    return found


def _nearest_of_length(
    tokens: Sequence[bytes | None],
    length: int,
    other_tokens: Sequence[bytes | None],
    ids_by_length: dict[int, list[int]],
) -> Int[np.ndarray, " N"]:
    """The number of the nearest of `others` for each of some words of one length; -1 for none.

    No two words are nearer than their lengths are, so that few lengths have to be looked at.
    """
    found = np.full(len(tokens), -1)
    least, sizes = np.full(len(tokens), _MAX_DISTANCE), np.full(len(tokens), _MAX_DISTANCE)
    for size in sorted(ids_by_length, key=lambda size: (abs(size - length), size)):
        waiting = np.flatnonzero(least >= abs(size - length))
        if not len(waiting):
            break
        numbers = ids_by_length[size]
        distances = process.cdist(
            [tokens[place] for place in waiting.tolist()],
            [other_tokens[number] for number in numbers],
            scorer=Levenshtein.distance,
            score_cutoff=int(least[waiting].max()),
            dtype=np.int32,
        )
        first = distances.argmin(axis=1)
        distance = distances[np.arange(len(waiting)), first]
        is_nearer = distance < least[waiting]
        is_nearer |= (distance == least[waiting]) & (size < sizes[waiting])
        places = waiting[is_nearer]
        least[places], sizes[places] = distance[is_nearer], size
        found[places] = np.array(numbers)[first[is_nearer]]
    return found
