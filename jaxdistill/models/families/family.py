"""What a family must say of itself, and the table of all of them."""

import abc
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.families.hf_config import resolve_aliases
from jaxdistill.models.tensor_rules import TensorRule


class Family(abc.ABC):
    """Models that share a `config.json` and the names of their tensors.

    Attributes:
        model_types: The `model_type` of `config.json` and the architecture that goes with it.
        prefix: What names begin with in a causal model's file and may lack in a bare body's.
        ignored: Names (`*` for anything) of tensors that hold no parameter, such as old buffers.
        aliases: Keys of `config.json` that are other names of the keys that the family reads.
    """

    model_types: ClassVar[Mapping[str, str]]
    tensor_prefix: ClassVar[str]
    ignored_tensors: ClassVar[tuple[str, ...]] = ()
    config_aliases: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def decoder_config(self, hf_config: Mapping[str, Any]) -> DecoderConfig:
        """What a `config.json` describes; UserError names every key that cannot be honoured."""

    @abc.abstractmethod
    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """The table of tensors, read in both directions."""

    @abc.abstractmethod
    def _hf_config_keys(
        self, config: DecoderConfig, original_hf_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The keys of `config.json` that `config` decides."""

    def hf_config(
        self, config: DecoderConfig, original_hf_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The `config.json` to write: the original's keys, under those that `config` decides.

        Raises:
            UserError: The family's `config.json` has no way to say what `config` says.
        """
        model_type = original_hf_config.get("model_type", next(iter(self.model_types)))
        result = {
            **resolve_aliases(original_hf_config, self.config_aliases),
            **self._hf_config_keys(config, original_hf_config),
            "model_type": model_type,
            "architectures": [self.model_types[model_type]],
        }
        read = self.decoder_config(result)
        if read != config:
            raise UserError(*_unsupported_fields(model_type, config, read))
        return result


def _unsupported_fields(
    model_type: str, config: DecoderConfig, read_back: DecoderConfig
) -> Iterator[str]:
    for field in fields(config):
        ours, theirs = getattr(config, field.name), getattr(read_back, field.name)
        if ours != theirs:
            yield (
                f"config.json of `{model_type}` cannot say that {field.name} is {ours}: "
                f"it would read as {theirs}. Export to a family that can, or keep the teacher's."
            )


class FamilyRegistry(Mapping[str, Family]):
    """`model_type` to family; every module of this package that has a `FAMILY` is in it."""

    def __init__(self, package: str, paths: Iterable[str]):
        self._by_type: dict[str, Family] = {}
        for module in pkgutil.iter_modules(paths):
            family = getattr(importlib.import_module(f"{package}.{module.name}"), "FAMILY", None)
            if family is not None:
                self._by_type.update(dict.fromkeys(family.model_types, family))

    def __getitem__(self, model_type: object) -> Family:
        """The family of a type.

        Raises:
            UserError: Nothing answers to that type.
        """
        if not isinstance(model_type, str) or model_type not in self._by_type:
            known = sorted(self._by_type)
            raise UserError(
                f"config.json: `model_type` is {model_type!r}, expected one of "
                f"{', '.join(known)}.{did_you_mean(str(model_type), known)}"
            )
        return self._by_type[model_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_type)

    def __len__(self) -> int:
        return len(self._by_type)
