"""Tokenizers of Hugging Face folders.

`tokenizer.json` decides how text becomes tokens. `transformers` replaces its pre-tokenizer by that
of the class that `tokenizer_config.json` names, and the two often differ, so the class is not asked
here. The other files only add to `tokenizer.json`: special tokens and the chat template.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxdistill.errors import UserError
from jaxdistill.hub.tensors import read_json

_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"

# Arguments of the call that `transformers` would write into an exported tokenizer_config.json.
_CALL_ARGUMENTS = ("is_local", "local_files_only")

_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token")
_TEXT = ("a text", (str, dict, type(None)))
_FLAG = ("true or false", (bool, type(None)))
_KEY_TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys((*_NAMED_TOKENS, "unk_token"), _TEXT),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces"), _FLAG),
    "model_max_length": ("a number of tokens", (int, float, type(None))),
    "chat_template": ("a text or a list of templates", (str, list, dict, type(None))),
    "added_tokens_decoder": ("an object", (dict,)),
}
"""Expected types of keys in tokenizer_config.json, in words and in Python."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder; code in the folder is never run.

    BOS and EOS are added to a text if the post-processor of `tokenizer.json` does so, or if
    `add_bos_token` or `add_eos_token` in `tokenizer_config.json` is true. Special tokens that
    `tokenizer_config.json` does not name are those of `config.json`.

    Raises:
        UserError: The folder has none, it is damaged, or it is not a fast tokenizer.
    """
    has_file = (folder / _TOKENIZER_FILE).is_file()
    if not has_file and not (folder / _CONFIG_FILE).is_file():
        raise UserError(f"{folder}: has no tokenizer: expected tokenizer.json.")
    options = _read_options(folder / _CONFIG_FILE)
    # Other files of a fast tokenizer, such as vocab.json, can only be read by the right class.
    loader = PreTrainedTokenizerFast if has_file else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # `transformers` and `tokenizers` raise bare exceptions of many kinds for a bad file.
    except Exception as error:  # noqa: BLE001
        reason = _describe_broken_file(folder) or " ".join(str(error).split())
        raise UserError(f"{folder}: the tokenizer cannot be read: {reason}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder}: has no fast tokenizer: expected tokenizer.json.")
    for name in _CALL_ARGUMENTS:
        tokenizer.init_kwargs.pop(name, None)
    if has_file:
        _name_special_tokens(tokenizer, folder)
        _add_ends(tokenizer, options)
    return tokenizer


def _read_options(path: Path) -> dict[str, Any]:
    """Read tokenizer_config.json and check the types of the keys that matter."""
    if not path.is_file():
        return {}
    options = read_json(path)
    wrong = [
        f"{path}: `{key}` is {options[key]!r}, expected {words}."
        for key, (words, types) in _KEY_TYPES.items()
        if key in options
        and (not isinstance(options[key], types) or (options[key] is True and bool not in types))
    ]
    if wrong:
        raise UserError(*wrong)
    return options


def _name_special_tokens(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Name the special tokens of `config.json` that the tokenizer's files leave open (GPT-2)."""
    if not (folder / "config.json").is_file():
        return
    hf_config = read_json(folder / "config.json")
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    for name in _NAMED_TOKENS:
        token_id = hf_config.get(f"{name}_id")
        if getattr(tokenizer, name) is None and type(token_id) is int and token_id in tokens:
            tokenizer.add_special_tokens({name: tokens[token_id]})


def _add_ends(tokenizer: PreTrainedTokenizerFast, options: Mapping[str, Any]) -> None:
    """Add BOS and EOS to encoded text where the options ask for them and the file does not."""
    backend = tokenizer.backend_tokenizer
    plain, encoded = (backend.encode("a", add_special_tokens=flag).ids for flag in (False, True))
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    has_start, has_end = encoded == [start, *plain], encoded == [*plain, end]
    if not (has_start or has_end or encoded == plain):
        return  # both are there, or the file adds other tokens
    adds_start = start is not None and bool(has_start or options.get("add_bos_token"))
    adds_end = end is not None and bool(has_end or options.get("add_eos_token"))
    if (adds_start, adds_end) == (has_start, has_end):
        return
    starts = [(str(tokenizer.bos_token), start)] if adds_start else []
    ends = [(str(tokenizer.eos_token), end)] if adds_end else []
    template = processors.TemplateProcessing(
        single=[*(token for token, _ in starts), "$A", *(token for token, _ in ends)],
        special_tokens=list(dict([*starts, *ends]).items()),
    )
    # A template cannot follow another one, but it follows the processor of offsets.
    before = backend.post_processor
    first = before[0] if isinstance(before, processors.Sequence) else before
    is_byte_level = isinstance(first, processors.ByteLevel)
    backend.post_processor = processors.Sequence([first, template]) if is_byte_level else template


def _describe_broken_file(folder: Path) -> str:
    """Name a missing or damaged file, which `transformers` does not; empty if it is fine."""
    try:
        json.loads((folder / _TOKENIZER_FILE).read_bytes())
    except FileNotFoundError:
        return "there is no tokenizer.json, nor another file of a fast tokenizer"
    except (OSError, ValueError) as error:
        return f"{_TOKENIZER_FILE} is damaged: {error}"
    return ""
