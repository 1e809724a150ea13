"""What each token of a row says of its answers, byte by byte, and what no token says."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill.data.examples import TextOffsets, char_to_byte_ends

_COMPLETION_GAP_BYTES = 64
"""How many bytes lie between two answers, so that a token which begins before the second one does
not reach into the first."""


@dataclass(frozen=True)
class TokenOffsets:
    """Where tokens stand in all that the answers of a row say, one answer after the other.

    The mark that ends an answer counts as one byte more.

    Attributes:
        begins: The byte where each token of an answer begins; that may be before the answer does.
        ends: The byte that it reaches; -1 for tokens of no answer, and for what a template puts
            around one.
        has_lost_text: Which tokens stand before characters that no token stands for.
    """

    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    has_lost_text: Bool[np.ndarray, " T"]


def token_offsets(token_bytes: Sequence[bytes | None], text_offsets: TextOffsets) -> TokenOffsets:
    """Where tokens stand in what the answers of a row say.

    Args:
        words: The bytes that each token stands for; None for a mark.
        covered: The text behind them.
    """
    parts = _bytes_of_tokens(token_bytes, text_offsets)
    begins, ends = _to_completion_offsets(_byte_level_ends(parts, text_offsets), text_offsets)
    return TokenOffsets(begins, ends, _find_lost_text(token_bytes, parts, text_offsets))


def _bytes_of_tokens(token_bytes: Sequence[bytes | None], text_offsets: TextOffsets) -> list[bytes]:
    """What each token says; a mark, which says nothing, the text that it stands for."""
    data = text_offsets.text.encode()
    begins = np.concatenate([[0], text_offsets.ends[:-1]])
    return [
        word if word is not None else data[begin:end]
        for word, begin, end in zip(token_bytes, begins, text_offsets.ends, strict=True)
    ]


def _byte_level_ends(
    token_bytes: Sequence[bytes], text_offsets: TextOffsets
) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, inside of characters, too.

    A tokenizer tells which characters a token has a part of, and not how much of them; its words
    do. Where they do not make up the text, because it was normalised, a part is the whole, and
    tokens with parts of one character end together. A space that SentencePiece puts before a text
    is no part of it.
    """
    data, whole = text_offsets.text.encode(), b"".join(token_bytes)
    if whole not in (data, b" " + data):
        return _character_level_ends(text_offsets)
    added = len(whole) - len(data)
    return np.maximum(np.cumsum([len(part) for part in token_bytes], dtype=np.int64) - added, 0)


def _character_level_ends(text_offsets: TextOffsets) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, or those behind it that have a part of its characters."""
    ends = text_offsets.ends.copy()
    for place in reversed(np.flatnonzero(text_offsets.starts[1:] < ends[:-1])):
        ends[place] = ends[place + 1]
    return ends


def _to_completion_offsets(
    end_bytes: Int[np.ndarray, " T"], text_offsets: TextOffsets
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """Where tokens begin and end in what the answers say, from the bytes that they reach."""
    begins, ends = np.concatenate([[0], end_bytes[:-1]]), np.full(len(end_bytes), -1)
    before = 0
    for number, turn in enumerate(text_offsets.turns):
        first, last = char_to_byte_ends(text_offsets.text, np.array(turn.content_range))
        inside = np.flatnonzero(text_offsets.turn_ids == number)
        begins[inside] += before - first
        is_said = inside[(end_bytes[inside] > first) & (end_bytes[inside] <= last)]
        ends[is_said] = before + end_bytes[is_said] - first
        before += last - first + 1
        mark = before
        before += _COMPLETION_GAP_BYTES
        if text_offsets.is_special[inside[-1:]].any():
            ends[inside[-1]] = mark
            begins[inside[-1]] = mark - 1
    return begins, ends


def _find_lost_text(
    token_bytes: Sequence[bytes | None],
    bytes_with_special: Sequence[bytes],
    text_offsets: TextOffsets,
) -> Bool[np.ndarray, " T"]:
    """Which tokens stand before characters that no token stands for.

    A character that is in none may be a part of the token before it all the same, as an accent is
    that was composed with its letter, or of one further on, as of two accents that changed places:
    the words of the tokens tell.
    """
    data, has_lost_text = text_offsets.text.encode(), np.zeros(len(bytes_with_special), dtype=bool)
    stretched = np.flatnonzero(text_offsets.is_extended)
    if not len(stretched):
        return has_lost_text
    # A mark stands for whatever it was given, and so would hide what is lost behind it.
    has_mark = any(token_bytes[place] is None for place in stretched.tolist())
    if not has_mark and _normalize_unicode(b"".join(bytes_with_special)) == _normalize_unicode(
        data
    ):
        return has_lost_text
    for end in np.unique(text_offsets.ends[stretched]):
        at = stretched[text_offsets.ends[stretched] == end]
        spoken = b"".join(token_bytes[place] or b"" for place in at.tolist())
        has_lost_text[at] = _normalize_unicode(spoken) != _normalize_unicode(
            data[text_offsets.starts[at].min() : end]
        )
    return has_lost_text


def _normalize_unicode(text: bytes) -> str:
    return unicodedata.normalize("NFKC", text.decode(errors="replace")).strip()
