"""Byte offsets of tokens in the completions of a row, for comparison of two tokenizers."""

import codecs
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill import align
from jaxdistill.data.examples import TextOffsets, char_to_byte_ends
from jaxdistill.data.renderer import AssistantTurn, Renderer
from jaxdistill.data.rows import Tokens

_COMPLETION_GAP_BYTES = 64
"""Bytes between two completions: more than the first token of one reaches back before it."""


@dataclass(frozen=True)
class TokenOffsets:
    """Byte ranges of tokens in the completions of a row, laid end to end.

    The special token that ends a completion has one byte of its own.

    Attributes:
        byte_ranges: Bytes of each token. The start may lie before the completion. The end is -1 for
            tokens outside of completions, also for those that a chat template adds around one.
        has_lost_text: True for tokens before characters that no token covers.
    """

    byte_ranges: align.ByteRanges
    has_lost_text: Bool[np.ndarray, " T"]


def token_offsets(token_bytes: Sequence[bytes | None], text_offsets: TextOffsets) -> TokenOffsets:
    """Compute offsets of tokens in completions, from their bytes (None for special tokens)."""
    all_bytes = _fill_special_tokens(token_bytes, text_offsets)
    byte_ranges = _to_completion_offsets(_byte_level_ends(all_bytes, text_offsets), text_offsets)
    return TokenOffsets(byte_ranges, _find_lost_text(token_bytes, all_bytes, text_offsets))


def exact_text_offsets(content: Tokens, renderer: Renderer) -> TextOffsets:
    """Return the text of exact tokens without special ones, and the bytes that each token covers.

    A character that the last token leaves unfinished is no part of the text.
    """
    tokens = (*content.prompt, *content.completion)
    token_bytes = [renderer.token_bytes[token] for token in tokens]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts, is_inside_character = [], []
    for part in token_bytes:
        parts.append(decoder.decode(part or b""))
        is_inside_character.append(part is not None and bool(decoder.getstate()[0]))
    text, ends = "".join(parts), np.cumsum([0, *map(len, parts)])
    turn = int(ends[len(content.prompt)]), len(text)
    char_ends = np.minimum(ends[1:] + np.array(is_inside_character), len(text))
    return TextOffsets(
        text=text,
        starts=char_to_byte_ends(text, ends[:-1]),
        ends=char_to_byte_ends(text, char_ends),
        is_special=np.array([part is None for part in token_bytes]),
        in_template=np.zeros(len(tokens), dtype=bool),
        turns=(AssistantTurn(turn, turn),),
        turn_ids=np.where(np.arange(len(tokens)) >= len(content.prompt), 0, -1),
        is_extended=np.zeros(len(tokens), dtype=bool),
    )


def _fill_special_tokens(
    token_bytes: Sequence[bytes | None], text_offsets: TextOffsets
) -> list[bytes]:
    """Return the bytes of each token, and of special tokens the text that they were read from."""
    data = text_offsets.text.encode()
    starts = np.concatenate([[0], text_offsets.ends[:-1]])
    return [
        data[start:end] if own_bytes is None else own_bytes
        for own_bytes, start, end in zip(token_bytes, starts, text_offsets.ends, strict=True)
    ]


def _byte_level_ends(
    all_bytes: Sequence[bytes], text_offsets: TextOffsets
) -> Int[np.ndarray, " T"]:
    """Return the byte where each token ends, inside of characters, too.

    Offsets of a tokenizer count characters, and a token may hold a part of one; the bytes of the
    tokens say how much. If they do not make up the text, because the tokenizer normalised it,
    tokens with parts of one character end together. The space that SentencePiece puts before a
    text is not part of it.
    """
    data, joined = text_offsets.text.encode(), b"".join(all_bytes)
    if joined not in (data, b" " + data):
        return _character_level_ends(text_offsets)
    num_added = len(joined) - len(data)
    return np.maximum(np.cumsum([len(part) for part in all_bytes], dtype=np.int64) - num_added, 0)


def _character_level_ends(text_offsets: TextOffsets) -> Int[np.ndarray, " T"]:
    """Return the byte where each token ends, or the last token with a part of its characters."""
    ends = text_offsets.ends.copy()
    for index in reversed(np.flatnonzero(text_offsets.starts[1:] < ends[:-1])):
        ends[index] = ends[index + 1]
    return ends


def _to_completion_offsets(
    text_ends: Int[np.ndarray, " T"], text_offsets: TextOffsets
) -> align.ByteRanges:
    """Convert bytes of the text to bytes of the completions laid end to end."""
    starts = np.concatenate([[0], text_ends[:-1]])
    ends = np.full(len(text_ends), -1)
    offset = 0
    for number, turn in enumerate(text_offsets.turns):
        first, last = char_to_byte_ends(text_offsets.text, np.array(turn.content_range))
        in_turn = np.flatnonzero(text_offsets.turn_ids == number)
        starts[in_turn] += offset - first
        in_content = in_turn[(text_ends[in_turn] > first) & (text_ends[in_turn] <= last)]
        ends[in_content] = offset + text_ends[in_content] - first
        offset += last - first + 1
        if text_offsets.is_special[in_turn[-1:]].any():
            ends[in_turn[-1]] = offset
            starts[in_turn[-1]] = offset - 1
        offset += _COMPLETION_GAP_BYTES
    return align.ByteRanges(starts, ends)


def _find_lost_text(
    token_bytes: Sequence[bytes | None],
    all_bytes: Sequence[bytes],
    text_offsets: TextOffsets,
) -> Bool[np.ndarray, " T"]:
    """Return True for tokens before characters that no token covers.

    A character outside of all offsets may still be part of a token: of the one before it, as an
    accent that was composed with its letter, or of a later one, as accents that were reordered.
    A comparison of the bytes after Unicode normalisation decides.
    """
    data, has_lost_text = text_offsets.text.encode(), np.zeros(len(all_bytes), dtype=bool)
    extended = np.flatnonzero(text_offsets.is_extended)
    if not len(extended):
        return has_lost_text
    # A special token stands for any text it was extended over, and would hide what is lost there.
    has_special = any(token_bytes[index] is None for index in extended.tolist())
    if not has_special and _normalize_unicode(b"".join(all_bytes)) == _normalize_unicode(data):
        return has_lost_text
    for end in np.unique(text_offsets.ends[extended]):
        indices = extended[text_offsets.ends[extended] == end]
        covered = b"".join(token_bytes[index] or b"" for index in indices.tolist())
        text = data[text_offsets.starts[indices].min() : end]
        has_lost_text[indices] = _normalize_unicode(covered) != _normalize_unicode(text)
    return has_lost_text


def _normalize_unicode(text: bytes) -> str:
    return unicodedata.normalize("NFKC", text.decode(errors="replace")).strip()
