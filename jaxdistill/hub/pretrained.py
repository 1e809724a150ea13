"""A pretrained model in memory, with everything that an export needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.hub.model_path import read_source
from jaxdistill.hub.parameters import load_params
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import check_dtype
from jaxdistill.models import DecoderModel, Family
from jaxdistill.types import Params


@dataclass(frozen=True)
class Pretrained:
    """Model with its tokenizer and the contents of its config files.

    Args:
        tokenizer: Its tokenizer; None if it was not loaded.
        hf_config: Its `config.json`.
        generation_config: Its `generation_config.json`; empty if there was none.
        gguf_tokenizer: Tokenizer metadata of the GGUF file that it was read from; empty for a
            Hugging Face folder.
    """

    family: Family
    language_model: DecoderModel
    params: Params
    tokenizer: PreTrainedTokenizerBase | None
    hf_config: dict[str, Any]
    generation_config: dict[str, Any]
    gguf_tokenizer: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens; the LM head's `language_model.vocab_size` may be padded beyond it."""
        if self.tokenizer is None:
            return self.language_model.vocab_size
        return real_vocab_size(self.tokenizer, self.language_model.vocab_size)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a completion, looked up as by `transformers`.

        Raises:
            UserError: The value in a file is not a token id or a list of them.
        """
        files = {
            "generation_config.json": self.generation_config,
            "config.json": self.hf_config,
        }
        for file, content in files.items():
            if (value := content.get("eos_token_id")) is not None:
                ids = value if isinstance(value, list | tuple) else [value]
                # JSON's true is an int in Python, and ids are compared as int32 on the device.
                if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
                    raise UserError(
                        f"{file}: `eos_token_id` is {value!r}, expected a token id or a list of "
                        "token ids (whole numbers, 0 or above)."
                    )
                return tuple(dict.fromkeys(ids))
        eos_id = getattr(self.tokenizer, "eos_token_id", None)
        return () if eos_id is None else (eos_id,)

    def with_eos_ids(self, eos_ids: Sequence[int]) -> "Pretrained":
        """Return the model with these tokens as the ends of a completion in its configs."""
        if not eos_ids or tuple(eos_ids) == self.eos_ids:
            return self
        names = ("bos_token_id", "pad_token_id")
        given = self.generation_config or {
            name: value for name in names if (value := self.hf_config.get(name)) is not None
        }
        value = list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]
        return replace(self, generation_config={**given, "eos_token_id": value})


def load(
    path: str | Path,
    *,
    dtype: str | None = "float32",
    shardings: Params | None = None,
    with_tokenizer: bool = True,
    revision: str | None = None,
) -> Pretrained:
    """Read a model: weights, config and tokenizer.

    `read_source` describes `path` and `revision`, `load_params` `dtype` and `shardings`.

    Raises:
        UserError: There is no model, it is incomplete, or it is not supported.
    """
    check_dtype(dtype)
    source = read_source(path, revision=revision)
    _ = source.language_model
    # Before the weights: a broken tokenizer is reported at once.
    tokenizer = source.load_tokenizer() if with_tokenizer else None
    return from_source(source, load_params(source, dtype=dtype, shardings=shardings), tokenizer)


def from_source(
    source: Source,
    params: Params,
    tokenizer: PreTrainedTokenizerBase | None,
    language_model: DecoderModel | None = None,
) -> Pretrained:
    """Join parameters with the config files of their source.

    `language_model` describes the parameters if they are those of some of the source's layers.
    """
    return Pretrained(
        family=source.family,
        language_model=source.language_model if language_model is None else language_model,
        params=params,
        tokenizer=tokenizer,
        hf_config=source.hf_config,
        generation_config=source.generation_config,
        gguf_tokenizer=source.gguf_tokenizer,
    )


def real_vocab_size(tokenizer: PreTrainedTokenizerBase, padded_vocab_size: int) -> int:
    """Return the vocabulary size without padding: the highest id, of added tokens too, plus one.

    Ids beyond the `padded_vocab_size` rows of the LM head (Gemma 3's image token in the text-only
    models) can never be predicted and do not count.
    """
    return min(max(tokenizer.get_vocab().values()) + 1, padded_vocab_size)
