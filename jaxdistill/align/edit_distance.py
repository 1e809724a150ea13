"""The other side's word that is most alike, for words that it does not have itself.

Wan et al., "Knowledge Fusion of Large Language Models" (FuseLLM), 2024,
https://arxiv.org/abs/2401.10491, call it MinED: the minimum edit distance.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

_BLOCK = 128
"""How many words are compared at a time: it bounds the memory, and costs no time."""

_FAR = 2**30


def nearest_words(
    words: Sequence[bytes | None],
    others: Sequence[bytes | None],
    twins: Int[np.ndarray, " V"],
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
    found = twins.copy()
    theirs = _by_length(others, range(len(others)))
    for length, numbers in _by_length(words, np.flatnonzero(twins < 0).tolist()).items():
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            found[block] = _nearest([words[number] for number in block], length, others, theirs)
    return found


def _by_length(words: Sequence[bytes | None], numbers: Sequence[int]) -> dict[int, list[int]]:
    """The numbers of those that are no marks, in their order, by how many bytes they have."""
    found: dict[int, list[int]] = {}
    for number in numbers:
        word = words[number]
        if word is not None:
            found.setdefault(len(word), []).append(number)
    return found


def _nearest(
    words: Sequence[bytes | None],
    length: int,
    others: Sequence[bytes | None],
    by_length: dict[int, list[int]],
) -> Int[np.ndarray, " N"]:
    """The number of the nearest of `others` for each of some words of one length; -1 for none.

    No two words are nearer than their lengths are, so that few lengths have to be looked at.
    """
    found = np.full(len(words), -1)
    least, sizes = np.full(len(words), _FAR), np.full(len(words), _FAR)
    for size in sorted(by_length, key=lambda size: (abs(size - length), size)):
        waiting = np.flatnonzero(least >= abs(size - length))
        if not len(waiting):
            break
        numbers = by_length[size]
        distances = process.cdist(
            [words[place] for place in waiting.tolist()],
            [others[number] for number in numbers],
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
