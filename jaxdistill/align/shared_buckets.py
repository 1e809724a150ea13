"""One space for two vocabularies: words of both count as what a text begins with.

After the same text, what either model says next becomes comparable where its words are summed by
their beginnings. A place of the shared space is a word of the teacher's that a word of the
student's begins with, as the teacher's tokenizer would write it. A word of the teacher's that
begins none counts as what the student would begin it with. So nothing is left out on either side
but marks, which share the first place unless they mean the same.

The idea is X-Token's (NVIDIA, 2026, https://arxiv.org/abs/2605.21699); its rules for weights are
not known to us.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

MAX_SUBTOKENS = 4
"""How many pieces of a word are kept."""

Subtokens = Sequence[tuple[int, ...]]
"""For every word of a vocabulary the other's words that it is written in; none for marks."""


class SharedBuckets(NamedTuple):
    """Where the words of both sides lie in the space that they share.

    Attributes:
        student: For each of the student's words the places of its pieces, in their order; -1
            behind the last, and the first place for what stands for no text.
        teacher: The place of each of the teacher's words.
        owners: The teacher's word that each place is named for; -1 for the first place.
        pieces: The first of the teacher's words that each of the student's is written in; -1
            behind the last.
    """

    student_buckets: Int[np.ndarray, "V N"]
    teacher_buckets: Int[np.ndarray, " W"]
    bucket_token: Int[np.ndarray, " K"]
    subtokens: Int[np.ndarray, "V N"]


def build_shared_buckets(
    student_subtokens: Subtokens, teacher_subtokens: Subtokens
) -> SharedBuckets:
    """The shared space of two vocabularies, each written in the other's words."""
    owners = np.array([-1, *sorted({pieces[0] for pieces in student_subtokens if pieces})])
    places = np.zeros(len(teacher_subtokens), dtype=np.int32)
    places[owners[1:]] = np.arange(1, len(owners))
    for word, pieces in enumerate(teacher_subtokens):
        if places[word] == 0 and pieces and student_subtokens[pieces[0]]:
            places[word] = places[student_subtokens[pieces[0]][0]]
    written = np.full((len(student_subtokens), MAX_SUBTOKENS), -1, dtype=np.int32)
    for word, pieces in enumerate(student_subtokens):
        written[word, : len(pieces)] = pieces[:MAX_SUBTOKENS]
    mine = np.where(written >= 0, places[written], -1)
    mine[:, 0] = np.maximum(mine[:, 0], 0)
    return SharedBuckets(mine, places, owners.astype(np.int32), written)


def retokenize(
    tokens: Sequence[bytes | None],
    other_tokens: Sequence[bytes | None],
    encode: Callable[[list[str]], list[list[int]]],
    special_pairs: Sequence[tuple[int, int]] = (),
) -> Subtokens:
    """Each word in another vocabulary's words.

    A word of the same bytes stands for it. Other words are encoded as text; where that is none,
    or the tokenizer adds to it, they are taken apart from the left into the longest words there
    are.

    Args:
        words: The bytes of each word; None for marks.
        others: The same of the other vocabulary.
        encode: Encodes texts with the other tokenizer, without marks around them.
        marks: Marks that mean the same: of `words`, and of `others`.
    """
    numbers = {word: number for number, word in reversed(list(enumerate(other_tokens))) if word}
    found: list[tuple[int, ...]] = [(numbers[word],) if word in numbers else () for word in tokens]
    waiting = [n for n, word in enumerate(tokens) if word and not found[n]]
    texts = {n: text for n in waiting if (text := _decode_utf8(tokens[n]))}
    encoded = dict(zip(texts, encode(list(texts.values())), strict=True))
    for number in waiting:
        word, said = tokens[number], encoded.get(number, [])
        assert word is not None, "marks are not waiting"
        is_word = b"".join(other_tokens[piece] or b"" for piece in said) == word
        found[number] = tuple(said) if is_word else _longest_match(word, numbers)
    for mine, theirs in special_pairs:
        found[mine] = (theirs,)
    return found


def _decode_utf8(token: bytes | None) -> str | None:
    try:
        return (token or b"").decode()
    except UnicodeDecodeError:
        return None


def _longest_match(token: bytes, token_ids: dict[bytes, int]) -> tuple[int, ...]:
    """The word in pieces, the longest first; only those before what has no piece."""
    found = []
    while token:
        size = next((n for n in range(len(token), 0, -1) if token[:n] in token_ids), None)
        if size is None:
            break
        found.append(token_ids[token[:size]])
        token = token[size:]
    return tuple(found)
