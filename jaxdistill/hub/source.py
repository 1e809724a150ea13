"""A pretrained model where it lies: what can be known of it before a weight is read."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.models import FAMILIES, DecoderConfig, Family

_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """A Hugging Face folder or a GGUF file; both look alike from here on.

    Args:
        path: The folder or file.
        hf_config: What `config.json` says, or would say.
        generation_config: What `generation_config.json` says; empty where there is none.
        tensors: The tensors by their Hugging Face names, not read yet.
        load_tokenizer: Reads the tokenizer.
    """

    path: Path
    hf_config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: Mapping[str, LazyTensor]
    load_tokenizer: Callable[[], PreTrainedTokenizerBase]

    @cached_property
    def family(self) -> Family:
        """The family that knows this `model_type`."""
        with self._prefix_errors():
            return FAMILIES[self.hf_config.get("model_type", "")]

    @cached_property
    def config(self) -> DecoderConfig:
        """The model's shape; its `vocab_size` counts the rows of the head, padding included."""
        family = self.family
        with self._prefix_errors():
            return family.decoder_config(self.hf_config)

    @cached_property
    def weights_hash(self) -> str:
        """A name for the weights: a copy of the files has the same, other weights another.

        Pieces of every file are looked at, a thousand or all of it, and not where it lies.
        """
        digest = hashlib.sha256()
        files = sorted(self.path.glob("*.safetensors")) if self.path.is_dir() else [self.path]
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                for start in range(0, size, max(_SAMPLE_BYTES, size // 1000)):
                    file.seek(start)
                    digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()[:12]

    @contextmanager
    def _prefix_errors(self) -> Iterator[None]:
        """Families do not know where a `config.json` lies: say so in front of what they find."""
        where = f"{self.path}/" if self.path.is_dir() else f"{self.path}: "
        try:
            yield
        except UserError as error:
            raise UserError(*(where + line for line in error.lines)) from None
