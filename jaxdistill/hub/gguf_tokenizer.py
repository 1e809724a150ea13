"""Tokenizers from and to the metadata of a GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError

_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_PREFIX = "tokenizer.ggml."
_SPACE = "\u2581"
"""SentencePiece's spelling of a space."""

# llama.cpp ignores merges for a word that is a token by itself, where these split the text.
_IGNORES_MERGES = ("llama-bpe", "tekken")

_PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (several) ✅ 🦙🦙 3 33 "
    "333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេស Zürich 東京 нещо на Български "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not "
    "SURE I'll make it, 'D you like some tea? We'Ve a'lL camelCase HTTPServer x_1=2;\r\n\r\n/*c*/  "
)
"""Text on which llama.cpp's ways to split a text all differ."""


def build_gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Build the tokenizer of a GGUF file, with its special tokens and chat template.

    `transformers.AutoTokenizer` would build the same, but needs PyTorch to read the file.

    Raises:
        UserError: `transformers` cannot build a tokenizer of this kind.
    """
    # Imported here, since these names are private: without them, folders can still be read.
    from transformers.integrations.gguf import (
        GGUF_TOKENIZER_MAPPING,  # pyright: ignore[reportPrivateImportUsage]
        convert_gguf_tokenizer,  # pyright: ignore[reportPrivateImportUsage]
    )

    parts, options = (
        {
            name: metadata[f"tokenizer.{key}"]
            for key, name in GGUF_TOKENIZER_MAPPING[kind].items()
            if f"tokenizer.{key}" in metadata
        }
        for kind in ("tokenizer", "tokenizer_config")
    )
    try:
        backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], dict(parts))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: the tokenizer cannot be built: {error}") from None
    if (name := parts.get("pre_tokenizer_type")) == "smollm":
        # `transformers` does not know this name.
        backend.pre_tokenizer = _known_pre_tokenizers()[name]
    if name in _IGNORES_MERGES:
        backend.model.ignore_merges = True
    if parts.get("tokenizer_type") == "llama":
        # llama.cpp's default for SentencePiece vocabularies.
        options.setdefault("add_bos_token", True)
    for name, key in _SPECIAL_TOKENS.items():
        if (token_id := metadata.get(_PREFIX + key)) is not None:
            options[name] = parts["tokens"][token_id]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    # Set afterwards: given a name, `transformers` looks up large vocabularies on the hub, to see if
    # they are Mistral's, and fails without a network.
    tokenizer.name_or_path = str(path)
    return tokenizer


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
        f"{_PREFIX}{key}": getattr(tokenizer, f"{name}_id")
        for name, key in _SPECIAL_TOKENS.items()
        if getattr(tokenizer, name) is not None
    }
    is_sentencepiece = bool(model.get("byte_fallback"))
    tokens, types = _tokens_and_types(tokenizer, vocab_size, is_sentencepiece)
    plain, with_special = (backend.encode("a", add_special_tokens=flag) for flag in (False, True))
    first, last = with_special.ids[0], with_special.ids[-1]
    metadata |= {
        f"{_PREFIX}tokens": tokens,
        f"{_PREFIX}token_type": types,
        f"{_PREFIX}add_bos_token": first != plain.ids[0] and first == tokenizer.bos_token_id,
        f"{_PREFIX}add_eos_token": last != plain.ids[-1] and last == tokenizer.eos_token_id,
        f"{_PREFIX}add_space_prefix": plain.tokens[0].startswith(_SPACE),
    }
    if is_sentencepiece:
        # llama.cpp's score, negated: the rank from 1 of the first merge into a token.
        merges = reversed(list(enumerate(model["merges"], start=1)))
        ranks = {left + right: rank for rank, (left, right) in merges}
        metadata[f"{_PREFIX}model"] = "llama"
        metadata[f"{_PREFIX}scores"] = [-float(ranks.get(token, 0)) for token in tokens]
        _check_round_trip(tokenizer, metadata)
    else:
        metadata[f"{_PREFIX}model"] = "gpt2"
        metadata[f"{_PREFIX}pre"] = _pre_tokenizer_name(backend)
        metadata[f"{_PREFIX}merges"] = [" ".join(merge) for merge in model["merges"]]
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
                tokens[token_id] = token.replace(_SPACE, " ")
        elif is_sentencepiece and len(token) == 6 and token.startswith("<0x"):
            types[token_id] = TokenType.BYTE
    return tokens, [int(kind) for kind in types]


def _check_round_trip(tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> None:
    """Check that scores express the merges: the metadata, read back, tokenise the probe alike."""
    read = build_gguf_tokenizer(Path("gguf"), {**metadata, "general.architecture": "llama"})
    if read(_PROBE).input_ids != tokenizer(_PROBE).input_ids:
        raise UserError(
            "format=gguf: llama.cpp would tokenise unlike this SentencePiece tokenizer, since its "
            "merges do not follow from scores of tokens. Use `--format safetensors`."
        )


def _pre_tokenizer_name(backend: Tokenizer) -> str:
    """Return llama.cpp's name of a tokenizer's way to split a text.

    llama.cpp's converter compares token ids of a probe text, and so knows published vocabularies
    only. Comparing how the text is split works for any vocabulary.
    """
    if backend.pre_tokenizer is not None:
        pieces = backend.pre_tokenizer.pre_tokenize_str(_PROBE)
        for name, pre_tokenizer in _known_pre_tokenizers().items():
            if pre_tokenizer.pre_tokenize_str(_PROBE) == pieces:
                return name
    raise UserError(
        "format=gguf: the tokenizer splits text in a way without a known name in llama.cpp; known "
        f"are {', '.join(_known_pre_tokenizers())}. Use `--format safetensors`."
    )


def _known_pre_tokenizers() -> dict[str, PreTokenizer]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {
        "gpt-2": gpt2,
        "smollm": pre_tokenizers.Sequence([digits, gpt2]),
        **{
            name: pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
            )
            for name, pattern in GGUF_PRE_TOKENIZER_SPLITS.items()
            if name in ("llama-bpe", "qwen2", "tekken", "gpt-4o")
        },
    }
