"""A pretrained model in memory, with all that is written when it leaves again."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.hub.model_path import read_source
from jaxdistill.hub.parameters import load_params
from jaxdistill.hub.tensors import check_dtype
from jaxdistill.hub.tokenizer import real_vocab_size
from jaxdistill.models import DecoderConfig, Family
from jaxdistill.types import Params


@dataclass(frozen=True)
class Pretrained:
    """A model, its tokenizer, and what its files say besides.

    Args:
        family: Knows the files' names for everything.
        config: The shape of the model.
        params: Its parameters.
        tokenizer: Its tokenizer, if it was asked for.
        hf_config: The `config.json` that it came with.
        generation_config: The `generation_config.json` that it came with, or nothing.
    """

    family: Family
    config: DecoderConfig
    params: Params
    tokenizer: PreTrainedTokenizerBase | None
    hf_config: dict[str, Any]
    generation_config: dict[str, Any]

    @cached_property
    def vocab_size(self) -> int:
        """How many of the head's `config.vocab_size` rows stand for a token."""
        if self.tokenizer is None:
            return self.config.vocab_size
        return real_vocab_size(self.tokenizer, self.config.vocab_size)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, each once, as `transformers` would look them up.

        Raises:
            UserError: A file has something else in their place.
        """
        files = {
            "generation_config.json": self.generation_config,
            "config.json": self.hf_config,
        }
        for file, content in files.items():
            if (value := content.get("eos_token_id")) is not None:
                ids = value if isinstance(value, list | tuple) else [value]
                # JSON's true is an int to Python; and ids are compared as int32 on the device.
                if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
                    raise UserError(
                        f"{file}: `eos_token_id` is {value!r}, expected a token id or a list of "
                        "token ids (whole numbers, 0 or above)."
                    )
                return tuple(dict.fromkeys(ids))
        end = getattr(self.tokenizer, "eos_token_id", None)
        return () if end is None else (end,)


def load(
    path: str | Path,
    *,
    dtype: str | None = "float32",
    shardings: Any = None,
    with_tokenizer: bool = True,
    revision: str | None = None,
) -> Pretrained:
    """Read a model: weights, config and tokenizer.

    Args:
        path: As for `read`: a folder, a `.gguf` file or a hub name.
        dtype: Of the parameters; None keeps each as it is stored, see `load_params`.
        shardings: The tree of the parameters with a sharding for each; None for one device.
        tokenizer: Whether to read the tokenizer, too.
        revision: The branch, tag or commit of a hub name.

    Raises:
        UserError: There is no model, it is not whole, or it is none that we can honour.
    """
    check_dtype(dtype)
    source = read_source(path, revision=revision)
    config = source.config
    # The tokenizer first: it takes a moment, weights take many.
    loaded_tokenizer = source.load_tokenizer() if with_tokenizer else None
    return Pretrained(
        family=source.family,
        config=config,
        params=load_params(source, dtype=dtype, shardings=shardings),
        tokenizer=loaded_tokenizer,
        hf_config=source.hf_config,
        generation_config=source.generation_config,
    )
