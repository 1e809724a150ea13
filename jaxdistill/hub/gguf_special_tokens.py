"""Special tokens of a GGUF file: their ids, and those that end a generation."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from gguf import TokenType

END_TOKENS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>"),
        *("<|calls|>", "<end_of_turn>", "<turn|>", "<|endoftext|>", "<eos>"),
        *("<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<｜end▁of▁sentence｜>"),
    )
)
"""Tokens that are control tokens and end a generation in llama.cpp, whatever the file says."""


def special_token_ids(metadata: Mapping[str, Any]) -> dict[str, int | list[int]]:
    """Return the ids of special tokens by their keys in `config.json`.

    `eos_token_id` lists all tokens that end a generation, EOS first, if there are several.
    """
    names = {"bos_token_id": "bos", "pad_token_id": "padding"}
    num_tokens = len(metadata.get("tokenizer.ggml.tokens", ()))
    ids: dict[str, int | list[int]] = {
        name: token_id
        for name, short in names.items()
        if is_token_id(token_id := metadata.get(f"tokenizer.ggml.{short}_token_id"), num_tokens)
    }
    end_ids = end_of_generation_ids(metadata)
    if end_ids:
        ids["eos_token_id"] = end_ids[0] if len(end_ids) == 1 else end_ids
    return ids


def is_token_id(value: Any, num_tokens: int) -> TypeGuard[int]:
    """Return True if a value is the id of one of so many tokens; llama.cpp ignores others."""
    return type(value) is int and 0 <= value < num_tokens


def end_of_generation_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Return the ids of all tokens that end a generation: EOS, end of turn, then others.

    llama.cpp's set (`special_eog_ids`) without the tokens for code infilling: the ids that the
    file names, and the tokens that are known by their text.
    """
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    types = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    ids = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    if ids[0] is None and metadata.get("tokenizer.ggml.model") == "llama" and len(tokens) > 2:
        ids[0] = 2  # llama.cpp's EOS of a SentencePiece vocabulary that does not name it
    known = [
        token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=False))
        # Departs from llama.cpp, which ends Gemma's completions at the HTML tag `</s>`, too.
        if token in END_TOKENS or (token == "</s>" and kind == TokenType.CONTROL)
    ]
    named = [token_id for token_id in ids if is_token_id(token_id, len(tokens))]
    return list(dict.fromkeys([*named, *known]))
