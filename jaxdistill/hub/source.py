"""A pretrained model on disk, before its weights are read."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_split import gguf_parts
from jaxdistill.hub.tensors import LazyTensor, safetensors_files
from jaxdistill.models import FAMILIES, DecoderModel, Family

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
    def language_model(self) -> DecoderModel:
        """Architecture; its `vocab_size` counts the LM head's rows, padding included."""
        family = self.family
        with self._prefix_errors():
            return DecoderModel(family.decoder_config(self.hf_config))

    @property
    def identity(self) -> dict[str, Any]:
        """Hash of the weights and values of the decoder's config, by name: what decides the logits.

        Paths and values that are a field's default are left out, so that the identity survives a
        move and a new field.
        """
        config = self.language_model.config
        kinds = config.distinct_layer_kinds
        pattern = [kinds.index(kind) for kind in config.layers]
        values = {**_changed_fields(replace(config, layers=kinds)), "layer kinds": pattern}
        return {"weights": self.weights_hash, **values}

    @property
    def identity_hash(self) -> str:
        """Hash of the identity."""
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:12]

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the weights' content, the same for a copy at another path.

        It covers the size of each file and about 1,000 samples of 4 kB from its start to its end;
        of a file below 4 MB it covers all. To hash 100 GB whole would take minutes at every start.
        """
        digest = hashlib.sha256()
        is_folder = self.path.is_dir()
        names = safetensors_files(self.path) if is_folder else ()
        for path in [self.path / name for name in names] or gguf_parts(self.path):
            size = path.stat().st_size
            digest.update(f"{path.name if is_folder else ''} {size} ".encode())
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


def _changed_fields(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the JSON values of a config's fields, by dotted name, without those at a default."""
    if isinstance(value, tuple):
        items = {f"{number}": item for number, item in enumerate(value)}
    elif is_dataclass(value):
        changed = [f for f in fields(value) if getattr(value, f.name) != f.default]
        items = {f.name: getattr(value, f.name) for f in changed}
    else:
        return {prefix.rstrip("."): value.value if isinstance(value, Enum) else value}
    values: dict[str, Any] = {}
    for name, item in items.items():
        values |= _changed_fields(item, f"{prefix}{name}.")
    return values
