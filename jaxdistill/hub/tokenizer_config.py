"""The `tokenizer_config.json` that `transformers` 4.57 and 5 read alike."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Version 5 writes what `from_pretrained` was called with, and special tokens by its own names.
_LEFT_OUT = (
    "is_local",
    "local_files_only",
    "extra_special_tokens",
    "model_specific_special_tokens",
)


def portable_tokenizer_config(
    tokenizer: PreTrainedTokenizerBase, written: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a `tokenizer_config.json` for both versions; `written` is that of the installed one.

    The class is always `PreTrainedTokenizerFast`. It reads `tokenizer.json` as it stands, while
    other classes rebuild parts of it in their constructors, and each version in its own way. The
    settings that those classes have as defaults are written out.
    """
    config = {key: value for key, value in written.items() if key not in _LEFT_OUT}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": tokenizer.model_input_names,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        **_special_tokens(written),
        **_chat_template(tokenizer),
    }
    if (adds_space := _adds_prefix_space(tokenizer)) is not None:
        config["add_prefix_space"] = adds_space
    return config


def _special_tokens(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return further special tokens: a list without names, and a mapping of the named ones.

    Version 5 calls the list `extra_special_tokens`, which is the mapping for version 4.
    """
    tokens = {
        "additional_special_tokens": written.get("extra_special_tokens"),
        "extra_special_tokens": written.get("model_specific_special_tokens"),
    }
    return {key: value for key, value in tokens.items() if value}


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the chat template, which older servers do not read from its own file."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    return {"chat_template": template} if template else {}


def _adds_prefix_space(tokenizer: PreTrainedTokenizerBase) -> bool | None:
    """Return the setting of `tokenizer.json`, which version 4 overrides; None if it has none."""
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if pre_tokenizer is None:
        return None
    return json.loads(pre_tokenizer.__getstate__()).get("add_prefix_space")
