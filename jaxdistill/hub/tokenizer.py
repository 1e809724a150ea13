"""Tokenizers, with `transformers` but without PyTorch, and what a model can make of their ids."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder; code from the folder is never run.

    Raises:
        UserError: There is none, or it cannot be read as a fast one.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise UserError(f"{folder}: has no tokenizer: expected tokenizer.json.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # `transformers` and `tokenizers` raise bare exceptions of many kinds for a bad file.
    except Exception as error:  # noqa: BLE001
        reason = _describe_broken_file(folder) or " ".join(str(error).split())
        raise UserError(f"{folder}: the tokenizer cannot be read: {reason}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder}: has no fast tokenizer: expected tokenizer.json.")
    return tokenizer


def _describe_broken_file(folder: Path) -> str:
    """Which of its files is missing or broken, if one is; `transformers` does not say."""
    if not (folder / "tokenizer.json").is_file():
        return "there is no tokenizer.json, and no other file that could be read in its place"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        try:
            json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return f"{name} is damaged: {error}"
    return ""


def build_gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file's metadata, with its special tokens and chat template.

    `transformers.AutoTokenizer` would build the same, but needs PyTorch to read the file.

    Raises:
        UserError: It is of a kind that `transformers` cannot build.
    """
    # Imported here, since it is no public name: were it moved, folders could still be read.
    from transformers.integrations.gguf import (
        GGUF_TOKENIZER_MAPPING,  # pyright: ignore[reportPrivateImportUsage]
        convert_gguf_tokenizer,  # pyright: ignore[reportPrivateImportUsage]
    )

    parts, options = (
        {
            ours: metadata[f"tokenizer.{key}"]
            for key, ours in names.items()
            if f"tokenizer.{key}" in metadata
        }
        for names in (
            GGUF_TOKENIZER_MAPPING["tokenizer"],
            GGUF_TOKENIZER_MAPPING["tokenizer_config"],
        )
    )
    try:
        backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], dict(parts))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: the tokenizer cannot be built: {error}") from None
    if parts.get("pre_tokenizer_type") == "smollm":
        # As in SmolLM's own files and in llama.cpp; `transformers` does not know this kind, and
        # cuts "\n\n1" in other places than the model was trained on.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if parts.get("tokenizer_type") == "llama":
        # llama.cpp's default for SentencePiece vocabularies, where a file does not say.
        options.setdefault("add_bos_token", True)
    tokens = parts["tokens"]
    special = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unk", "pad_token": "pad"}
    for name, short in special.items():
        if f"{short}_token_id" in parts:
            options[name] = tokens[parts[f"{short}_token_id"]]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    # Not when it is made: then `transformers` looks for the name on the hub, to see whether a large
    # vocabulary is one of Mistral's, and fails where there is no network.
    tokenizer.name_or_path = str(path)
    return tokenizer


def real_vocab_size(tokenizer: PreTrainedTokenizerBase, padded_vocab_size: int) -> int:
    """How many rows of a head stand for a token: up to the highest id that the tokenizer makes.

    Args:
        tokenizer: The tokenizer; tokens added to it count.
        padded: The rows of the head. A tokenizer may name more ids than the model has rows for
            (Gemma 3's image token in the text-only models): these can never be predicted.
    """
    return min(max(tokenizer.get_vocab().values()) + 1, padded_vocab_size)
