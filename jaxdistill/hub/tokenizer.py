"""Tokenizers of Hugging Face folders, loaded by `transformers` without PyTorch."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder; code in the folder is never run.

    Raises:
        UserError: The folder has none, or it is not a fast tokenizer.
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
    """Name a missing or damaged file, which `transformers` does not; empty if all are fine."""
    if not (folder / "tokenizer.json").is_file():
        return "there is no tokenizer.json, nor another file of a fast tokenizer"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        try:
            json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return f"{name} is damaged: {error}"
    return ""


def real_vocab_size(tokenizer: PreTrainedTokenizerBase, padded_vocab_size: int) -> int:
    """Return the vocabulary size without padding: the tokenizer's highest id plus one.

    Args:
        tokenizer: The tokenizer; added tokens count.
        padded_vocab_size: Rows of the LM head. Ids beyond them (Gemma 3's image token in the
            text-only models) can never be predicted and do not count.
    """
    return min(max(tokenizer.get_vocab().values()) + 1, padded_vocab_size)
