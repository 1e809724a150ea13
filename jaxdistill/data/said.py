"""What each token of a row says of its answers, byte by byte, and what no token says."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill.data.examples import Covered, byte_ends

_GAP = 64
"""How many bytes lie between two answers, so that a token which begins before the second one does
not reach into the first."""


@dataclass(frozen=True)
class Said:
    """Where tokens stand in all that the answers of a row say, one answer after the other.

    The mark that ends an answer counts as one byte more.

    Attributes:
        begins: The byte where each token of an answer begins; that may be before the answer does.
        ends: The byte that it reaches; -1 for tokens of no answer, and for what a template puts
            around one.
        is_lost: Which tokens stand before characters that no token stands for.
    """

    begins: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    is_lost: Bool[np.ndarray, " T"]


def said(words: Sequence[bytes | None], covered: Covered) -> Said:
    """Where tokens stand in what the answers of a row say.

    Args:
        words: The bytes that each token stands for; None for a mark.
        covered: The text behind them.
    """
    parts = _parts(words, covered)
    begins, ends = _in_answers(_exact_ends(parts, covered), covered)
    return Said(begins, ends, _is_lost(words, parts, covered))


def _parts(words: Sequence[bytes | None], covered: Covered) -> list[bytes]:
    """What each token says; a mark, which says nothing, the text that it stands for."""
    data = covered.text.encode()
    begins = np.concatenate([[0], covered.ends[:-1]])
    return [
        word if word is not None else data[begin:end]
        for word, begin, end in zip(words, begins, covered.ends, strict=True)
    ]


def _exact_ends(parts: Sequence[bytes], covered: Covered) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, inside of characters, too.

    A tokenizer tells which characters a token has a part of, and not how much of them; its words
    do. Where they do not make up the text, because it was normalised, a part is the whole, and
    tokens with parts of one character end together. A space that SentencePiece puts before a text
    is no part of it.
    """
    data, whole = covered.text.encode(), b"".join(parts)
    if whole not in (data, b" " + data):
        return _shared_ends(covered)
    added = len(whole) - len(data)
    return np.maximum(np.cumsum([len(part) for part in parts], dtype=np.int64) - added, 0)


def _shared_ends(covered: Covered) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, or those behind it that have a part of its characters."""
    ends = covered.ends.copy()
    for place in reversed(np.flatnonzero(covered.begins[1:] < ends[:-1])):
        ends[place] = ends[place + 1]
    return ends


def _in_answers(
    reached: Int[np.ndarray, " T"], covered: Covered
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """Where tokens begin and end in what the answers say, from the bytes that they reach."""
    begins, ends = np.concatenate([[0], reached[:-1]]), np.full(len(reached), -1)
    before = 0
    for number, turn in enumerate(covered.turns):
        first, last = byte_ends(covered.text, np.array(turn.said))
        inside = np.flatnonzero(covered.turn_ids == number)
        begins[inside] += before - first
        is_said = inside[(reached[inside] > first) & (reached[inside] <= last)]
        ends[is_said] = before + reached[is_said] - first
        before += last - first + 1
        mark = before
        before += _GAP
        if covered.is_special[inside[-1:]].any():
            ends[inside[-1]] = mark
            begins[inside[-1]] = mark - 1
    return begins, ends


def _is_lost(
    words: Sequence[bytes | None], parts: Sequence[bytes], covered: Covered
) -> Bool[np.ndarray, " T"]:
    """Which tokens stand before characters that no token stands for.

    A character that is in none may be a part of the token before it all the same, as an accent is
    that was composed with its letter, or of one further on, as of two accents that changed places:
    the words of the tokens tell.
    """
    data, is_lost = covered.text.encode(), np.zeros(len(parts), dtype=bool)
    stretched = np.flatnonzero(covered.is_stretched)
    if not len(stretched):
        return is_lost
    # A mark stands for whatever it was given, and so would hide what is lost behind it.
    has_mark = any(words[place] is None for place in stretched.tolist())
    if not has_mark and _composed(b"".join(parts)) == _composed(data):
        return is_lost
    for end in np.unique(covered.ends[stretched]):
        at = stretched[covered.ends[stretched] == end]
        spoken = b"".join(words[place] or b"" for place in at.tolist())
        is_lost[at] = _composed(spoken) != _composed(data[covered.begins[at].min() : end])
    return is_lost


def _composed(text: bytes) -> str:
    return unicodedata.normalize("NFKC", text.decode(errors="replace")).strip()
