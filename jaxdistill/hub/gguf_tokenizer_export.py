"""Tokenizer metadata of a GGUF file, from a fast tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_pre_tokenizers import PROBE, pre_tokenizer_name
from jaxdistill.hub.gguf_tokenizer import (
    KEY_PREFIX,
    SPACE,
    SPECIAL_TOKEN_KEYS,
    build_gguf_tokenizer,
)


def tokenizer_to_gguf(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict[str, Any]:
    """Return the metadata with which llama.cpp tokenises as a fast tokenizer does.

    The `vocab_size` rows of the embedding that have no token become unused tokens.

    Raises:
        UserError: llama.cpp has no tokenizer of this kind.
    """
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    if model["type"] != "BPE":
        raise UserError(
            f"format=gguf: a tokenizer of type {model['type']} cannot be written, only BPE. "
            "Use `--format safetensors`."
        )
    metadata = {
        f"{KEY_PREFIX}{key}": getattr(tokenizer, f"{name}_id")
        for name, key in SPECIAL_TOKEN_KEYS.items()
        if getattr(tokenizer, name) is not None
    }
    is_sentencepiece = bool(model.get("byte_fallback"))
    tokens, types = _tokens_and_types(tokenizer, vocab_size, is_sentencepiece)
    plain, with_special = (backend.encode("a", add_special_tokens=flag) for flag in (False, True))
    first, last = with_special.ids[0], with_special.ids[-1]
    metadata |= {
        f"{KEY_PREFIX}tokens": tokens,
        f"{KEY_PREFIX}token_type": types,
        f"{KEY_PREFIX}add_bos_token": first != plain.ids[0] and first == tokenizer.bos_token_id,
        f"{KEY_PREFIX}add_eos_token": last != plain.ids[-1] and last == tokenizer.eos_token_id,
        f"{KEY_PREFIX}add_space_prefix": plain.tokens[0].startswith(SPACE),
    }
    if is_sentencepiece:
        # llama.cpp's score, negated: the rank from 1 of the first merge into a token.
        merges = reversed(list(enumerate(model["merges"], start=1)))
        ranks = {left + right: rank for rank, (left, right) in merges}
        metadata[f"{KEY_PREFIX}model"] = "llama"
        metadata[f"{KEY_PREFIX}scores"] = [-float(ranks.get(token, 0)) for token in tokens]
        _check_round_trip(tokenizer, metadata)
    else:
        metadata[f"{KEY_PREFIX}model"] = "gpt2"
        metadata[f"{KEY_PREFIX}pre"] = pre_tokenizer_name(
            backend, ignores_merges=bool(model.get("ignore_merges"))
        )
        metadata[f"{KEY_PREFIX}merges"] = [" ".join(merge) for merge in model["merges"]]
    if isinstance(tokenizer.chat_template, str):
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _tokens_and_types(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, is_sentencepiece: bool
) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{token_id}]" for token_id in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    added = tokenizer.added_tokens_decoder
    for token, token_id in tokenizer.get_vocab().items():
        if token_id >= vocab_size:
            continue
        tokens[token_id], types[token_id] = token, TokenType.NORMAL
        if is_sentencepiece and token == (tokenizer.unk_token or "<unk>"):
            types[token_id] = TokenType.UNKNOWN
        elif token_id in added:
            is_special = added[token_id].special
            types[token_id] = TokenType.CONTROL if is_special else TokenType.USER_DEFINED
            if is_sentencepiece and not is_special:
                tokens[token_id] = token.replace(SPACE, " ")
        elif is_sentencepiece and len(token) == 6 and token.startswith("<0x"):
            types[token_id] = TokenType.BYTE
    return tokens, [int(kind) for kind in types]


def _check_round_trip(tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> None:
    """Check that scores express the merges: the metadata, read back, tokenise the probe alike."""
    read = build_gguf_tokenizer(Path("gguf"), {**metadata, "general.architecture": "llama"})
    if read(PROBE).input_ids != tokenizer(PROBE).input_ids:
        raise UserError(
            "format=gguf: llama.cpp would tokenise unlike this SentencePiece tokenizer, since its "
            "merges do not follow from scores of tokens. Use `--format safetensors`."
        )
