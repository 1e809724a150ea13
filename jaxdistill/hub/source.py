"""A pretrained model on disk, before its weights are read."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_split import gguf_parts
from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.models import FAMILIES, DecoderConfig, Family

_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """Hugging Face folder or GGUF file, in one form for both.

    Args:
        hf_config: Contents of `config.json`, derived from the metadata of a GGUF file.
        generation_config: Contents of `generation_config.json`; empty if there is none.
        tensors: Unread tensors by their Hugging Face names.
        gguf_tokenizer: Tokenizer metadata of a GGUF file; empty for a folder.
    """

    path: Path
    hf_config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: Mapping[str, LazyTensor]
    load_tokenizer: Callable[[], PreTrainedTokenizerBase]
    gguf_tokenizer: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def family(self) -> Family:
        """Family of the config's `model_type`."""
        model_type = self.hf_config.get("model_type", "")
        with self._prefix_errors():
            if "text_config" in self.hf_config and model_type not in FAMILIES:
                raise UserError(
                    f"config.json: `model_type` is {model_type!r}, a model of text and other "
                    "inputs (`text_config`), and only models of text are read. Use a .gguf file "
                    "of this model, which holds its text model alone."
                )
            return FAMILIES[model_type]

    @cached_property
    def config(self) -> DecoderConfig:
        """Shape of the model; its `vocab_size` counts the LM head's rows, padding included."""
        family = self.family
        with self._prefix_errors():
            return family.decoder_config(self.hf_config)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the weights' content, the same for a copy in another folder.

        It covers about 1,000 samples of 4 kB from each file, or the whole of a small file.
        """
        digest = hashlib.sha256()
        files = (
            sorted(self.path.glob("*.safetensors")) if self.path.is_dir() else gguf_parts(self.path)
        )
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
        """Add the path to errors of a family, which does not know it."""
        prefix = f"{self.path}/" if self.path.is_dir() else f"{self.path}: "
        try:
            yield
        except UserError as error:
            raise UserError(*(prefix + line for line in error.lines)) from None
