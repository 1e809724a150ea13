"""What bytes each token of a vocabulary stands for, whatever alphabet its tokenizer writes in."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError

_SPACE_MARKER = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes of every token by its id; None for marks that stand for no text.

    Raises:
        UserError: for a tokenizer that does not say how its tokens become text.
    """
    kinds = {step["type"] for step in _decoder_steps(tokenizer)}
    if "ByteLevel" in kinds:
        read = _decode_byte_level
    elif kinds & {"Metaspace", "Replace", "ByteFallback"}:
        read = _decode_sentencepiece
    else:
        raise UserError(
            f"tokenizer `{tokenizer.name_or_path}`: its tokens are put together by "
            f"{', '.join(sorted(kinds)) or 'nothing that is known'}; expected a byte-level or a "
            "SentencePiece tokenizer."
        )
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.get_vocab()
    found: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)  # there may be holes
    for word, number in vocabulary.items():
        token = added.get(number)
        if token is None:
            found[number] = read(word)
        elif not token.special:
            # Added tokens are written as they are, but for the letter of a space.
            found[number] = word.encode() if read is _decode_byte_level else read(word)
    return found


def text_token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes of every token that texts are written in, by its id; None for all others.

    SentencePiece has a token for each byte, for what it has no other: `<0x41>` stands beside `A`,
    often before it, and no text has it.

    Raises:
        UserError: as `token_bytes`.
    """
    found, vocabulary = token_bytes(tokenizer), tokenizer.get_vocab()
    single = {
        number
        for word, number in vocabulary.items()
        if _BYTE_TOKEN.fullmatch(word) and found[number] != word.encode()
    }
    spelt = {word for number, word in enumerate(found) if number not in single}
    return [
        None if number in single and word in spelt else word for number, word in enumerate(found)
    ]


def exact_matches(
    student: Sequence[bytes | None],
    teacher: Sequence[bytes | None],
    special_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " W"]]:
    """For each word of either side the other's of the same bytes; -1 where there is none.

    Of several words of the same bytes only the first has a twin, so that twins are twins of each
    other.

    Args:
        student: The student's `words`; None for marks.
        teacher: The same of the teacher's.
        marks: Marks that mean the same: the student's, and the teacher's.
    """
    numbers: list[dict[bytes, int]] = [{}, {}]
    for side, words in zip(numbers, (student, teacher), strict=True):
        for number, word in enumerate(words):
            if word is not None:
                side.setdefault(word, number)
    found = [np.full(len(words), -1, dtype=np.int32) for words in (student, teacher)]
    shared = numbers[0].keys() & numbers[1].keys()
    pairs = [(numbers[0][word], numbers[1][word]) for word in shared]
    for mine, theirs in (*pairs, *special_pairs):
        found[0][mine], found[1][theirs] = theirs, mine
    return found[0], found[1]


def padded_token_bytes(
    tokens: Sequence[bytes | None], max_bytes: int = 16
) -> tuple[UInt8[np.ndarray, "V L"], Int[np.ndarray, " V"]]:
    """The first bytes of every word, 0 behind its end, and how many there are; none for marks."""
    joined = b"".join((word or b"")[:max_bytes].ljust(max_bytes, b"\0") for word in tokens)
    sizes = [min(len(word or b""), max_bytes) for word in tokens]
    return (
        np.frombuffer(joined, dtype=np.uint8).reshape(len(tokens), max_bytes),
        np.array(sizes, dtype=np.int32),
    )


def word_boundaries(tokens: Sequence[bytes | None]) -> Bool[np.ndarray, " V"]:
    """Which words begin with white space, or are marks: a text may end before them."""
    return np.array([word is None or word[:1].isspace() for word in tokens])


def _decoder_steps(tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    waiting = [json.loads(backend.to_str())["decoder"]] if backend is not None else []
    while waiting:
        step = waiting.pop()
        if step is not None:
            yield step
            waiting += step.get("decoders", [])


def _decode_byte_level(token: str) -> bytes:
    alphabet = _byte_level_alphabet()
    try:
        return bytes(alphabet[letter] for letter in token)
    except KeyError:
        return token.encode()


def _decode_sentencepiece(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace(_SPACE_MARKER, " ").encode()


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """The byte behind each letter of a byte-level vocabulary.

    Bytes that are printable in Latin-1 stand for themselves; the others have the letters from 256
    on, in their order (Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019).
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): b for n, b in enumerate(others)}
