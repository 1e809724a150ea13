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

MAX_PIECES = 4
"""How many pieces of a word are kept."""

Pieces = Sequence[tuple[int, ...]]
"""For every word of a vocabulary the other's words that it is written in; none for marks."""


class Projection(NamedTuple):
    """Where the words of both sides lie in the space that they share.

    Attributes:
        student: For each of the student's words the places of its pieces, in their order; -1
            behind the last, and the first place for what stands for no text.
        teacher: The place of each of the teacher's words.
        owners: The teacher's word that each place is named for; -1 for the first place.
        pieces: The first of the teacher's words that each of the student's is written in; -1
            behind the last.
    """

    student: Int[np.ndarray, "V N"]
    teacher: Int[np.ndarray, " W"]
    owners: Int[np.ndarray, " K"]
    pieces: Int[np.ndarray, "V N"]


def projection(student: Pieces, teacher: Pieces) -> Projection:
    """The shared space of two vocabularies, each written in the other's words."""
    owners = np.array([-1, *sorted({pieces[0] for pieces in student if pieces})])
    places = np.zeros(len(teacher), dtype=np.int32)
    places[owners[1:]] = np.arange(1, len(owners))
    for word, pieces in enumerate(teacher):
        if places[word] == 0 and pieces and student[pieces[0]]:
            places[word] = places[student[pieces[0]][0]]
    written = np.full((len(student), MAX_PIECES), -1, dtype=np.int32)
    for word, pieces in enumerate(student):
        written[word, : len(pieces)] = pieces[:MAX_PIECES]
    mine = np.where(written >= 0, places[written], -1)
    mine[:, 0] = np.maximum(mine[:, 0], 0)
    return Projection(mine, places, owners.astype(np.int32), written)


def pieces(
    words: Sequence[bytes | None],
    others: Sequence[bytes | None],
    encode: Callable[[list[str]], list[list[int]]],
    marks: Sequence[tuple[int, int]] = (),
) -> Pieces:
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
    numbers = {word: number for number, word in reversed(list(enumerate(others))) if word}
    found: list[tuple[int, ...]] = [(numbers[word],) if word in numbers else () for word in words]
    waiting = [n for n, word in enumerate(words) if word and not found[n]]
    texts = {n: text for n in waiting if (text := _text(words[n]))}
    encoded = dict(zip(texts, encode(list(texts.values())), strict=True))
    for number in waiting:
        word, said = words[number], encoded.get(number, [])
        assert word is not None, "marks are not waiting"
        is_word = b"".join(others[piece] or b"" for piece in said) == word
        found[number] = tuple(said) if is_word else _longest(word, numbers)
    for mine, theirs in marks:
        found[mine] = (theirs,)
    return found


def _text(word: bytes | None) -> str | None:
    try:
        return (word or b"").decode()
    except UnicodeDecodeError:
        return None


def _longest(word: bytes, numbers: dict[bytes, int]) -> tuple[int, ...]:
    """The word in pieces, the longest first; only those before what has no piece."""
    found = []
    while word:
        size = next((n for n in range(len(word), 0, -1) if word[:n] in numbers), None)
        if size is None:
            break
        found.append(numbers[word[:size]])
        word = word[size:]
    return tuple(found)
