"""Bytes of every token of a vocabulary, and tables computed from them."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError

TokenBytes = Sequence[bytes | None]
"""Bytes of each token, by token id; None for special tokens."""

SpecialPairs = Sequence[tuple[int, int]]
"""Special tokens of the same meaning: `(student's id, teacher's id)` each."""

_SPACE_MARKER = "\N{LOWER ONE EIGHTH BLOCK}"
"""Character that SentencePiece writes for a space."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class ExactMatches(NamedTuple):
    """For each token, the other side's token of the same bytes; -1 for none."""

    student: Int[np.ndarray, " V"]
    teacher: Int[np.ndarray, " W"]


class PaddedBytes(NamedTuple):
    """First bytes of each token, 0 after its end, and how many there are (0: special token)."""

    token_bytes: UInt8[np.ndarray, "V Y"]
    num_bytes: Int[np.ndarray, " V"]


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """Return the bytes of every token, by token id; None for special tokens.

    Raises:
        UserError: The tokenizer's decoder is neither byte-level nor SentencePiece.
    """
    kinds = {step["type"] for step in _decoder_steps(tokenizer)}
    if "ByteLevel" in kinds:
        decode = _decode_byte_level
    elif kinds & {"Metaspace", "Replace", "ByteFallback"}:
        decode = _decode_sentencepiece
    else:
        raise UserError(
            f"tokenizer `{tokenizer.name_or_path}`: its decoder is "
            f"{', '.join(sorted(kinds)) or 'unknown'}; expected a byte-level or a SentencePiece "
            "tokenizer."
        )
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.get_vocab()
    result: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)  # ids may have gaps
    for text, token_id in vocabulary.items():
        token = added.get(token_id)
        if token is None:
            result[token_id] = decode(text)
        elif not token.special:
            # Added tokens hold plain text, except that SentencePiece marks spaces in them too.
            result[token_id] = text.encode() if decode is _decode_byte_level else decode(text)
    return result


def text_token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """Return the bytes of every token that occurs in encoded text, by token id; None for others.

    SentencePiece has a fallback token for each byte: `<0x41>` beside `A`. Where another token has
    the same byte, no text is encoded with the fallback token.

    Raises:
        UserError: As `token_bytes`.
    """
    result = token_bytes(tokenizer)
    fallback = {
        token_id
        for text, token_id in tokenizer.get_vocab().items()
        if _BYTE_TOKEN.fullmatch(text) and result[token_id] != text.encode()
    }
    spelt = {token for token_id, token in enumerate(result) if token_id not in fallback}
    return [
        None if token_id in fallback and token in spelt else token
        for token_id, token in enumerate(result)
    ]


def exact_matches(
    student: TokenBytes, teacher: TokenBytes, special_pairs: SpecialPairs = ()
) -> ExactMatches:
    """Match tokens of the same bytes, and special tokens of the same meaning, one to one.

    Of several tokens of the same bytes only the first has a match, so that matches are mutual.
    """
    ids: list[dict[bytes, int]] = [{}, {}]
    for ids_of_side, tokens in zip(ids, (student, teacher), strict=True):
        for token_id, token in enumerate(tokens):
            if token is not None:
                ids_of_side.setdefault(token, token_id)
    pairs = [(ids[0][token], ids[1][token]) for token in ids[0].keys() & ids[1].keys()]
    matches = ExactMatches(
        *(np.full(len(tokens), -1, dtype=np.int32) for tokens in (student, teacher))
    )
    for student_id, teacher_id in (*pairs, *special_pairs):
        matches.student[student_id], matches.teacher[teacher_id] = teacher_id, student_id
    return matches


def padded_token_bytes(tokens: TokenBytes, max_bytes: int = 16) -> PaddedBytes:
    """Return the first `max_bytes` bytes of every token as an array."""
    joined = b"".join((token or b"")[:max_bytes].ljust(max_bytes, b"\0") for token in tokens)
    lengths = [min(len(token or b""), max_bytes) for token in tokens]
    return PaddedBytes(
        np.frombuffer(joined, dtype=np.uint8).reshape(len(tokens), max_bytes),
        np.array(lengths, dtype=np.int32),
    )


def word_boundaries(tokens: TokenBytes) -> Bool[np.ndarray, " V"]:
    """Return which tokens begin with white space or are special: a word may end before them."""
    return np.array([token is None or token[:1].isspace() for token in tokens])


def _decoder_steps(tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pending = [json.loads(backend.to_str())["decoder"]] if backend is not None else []
    while pending:
        step = pending.pop()
        if step is not None:
            yield step
            pending += step.get("decoders", [])


def _decode_byte_level(token: str) -> bytes:
    alphabet = _byte_level_alphabet()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode()


def _decode_sentencepiece(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace(_SPACE_MARKER, " ").encode()


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's byte-level vocabulary.

    Bytes that are printable in Latin-1 are their own character; the others have the characters
    from 256 on, in order.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): b for n, b in enumerate(others)}
