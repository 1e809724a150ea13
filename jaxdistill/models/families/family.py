"""The interface of a model family, and the registry of all families."""

import abc
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.models.config import Activation, DecoderConfig
from jaxdistill.models.families.hf_config import HFConfig, hf_activation_name, resolve_aliases
from jaxdistill.models.tensor_rules import TensorRule


class Family(abc.ABC):
    """Models that share the keys of their `config.json` and the names of their tensors.

    Attributes:
        model_types: Architecture (`architectures` of `config.json`) of each `model_type`.
        defaults: Values of missing keys of `config.json`, as in `transformers`.
        field_keys: Keys of `config.json`, and the attributes of `DecoderConfig` that they hold.
        tensor_prefix: Prefix of names in the file of a causal language model, which files of
            the bare decoder may lack.
        ignored_tensors: Names (`*` matches anything) of tensors that hold no parameter, such as
            old buffers.
        config_aliases: Other keys of `config.json`, and the keys that they stand for.
    """

    model_types: ClassVar[Mapping[str, str]]
    defaults: ClassVar[Mapping[str, Any]]
    field_keys: ClassVar[Mapping[str, str]]
    tensor_prefix: ClassVar[str]
    ignored_tensors: ClassVar[tuple[str, ...]] = ()
    config_aliases: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def decoder_config(self, hf_config: HFConfig) -> DecoderConfig:
        """Read a `config.json`; a UserError names every key that is wrong or not supported."""

    @abc.abstractmethod
    def tensor_rules(self, config: DecoderConfig) -> tuple[TensorRule, ...]:
        """Return the rule of every tensor, for import and export."""

    @abc.abstractmethod
    def _hf_config_keys(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        """Return keys of `config.json` that `config` determines beside `field_keys`."""

    def hf_config(self, config: DecoderConfig, original: HFConfig) -> dict[str, Any]:
        """Return the `config.json` of `config`; keys that it does not determine are the original's.

        Raises:
            UserError: The family's `config.json` cannot express `config`.
        """
        model_type = original.get("model_type", next(iter(self.model_types)))
        result = resolve_aliases(original, self.config_aliases)
        for key, name in self.field_keys.items():
            value = getattr(config, name)
            if isinstance(value, Activation):
                value = hf_activation_name(value, original.get(key, self.defaults[key]))
            result[key] = value
        result |= {
            **self._hf_config_keys(config, original),
            "model_type": model_type,
            "architectures": [self.model_types[model_type]],
        }
        read_back = self.decoder_config(result)
        if read_back != config:
            raise UserError(*_unsupported_fields(model_type, config, read_back))
        return result


def _unsupported_fields(
    model_type: str, config: DecoderConfig, read_back: DecoderConfig
) -> Iterator[str]:
    for field in fields(config):
        value, value_back = getattr(config, field.name), getattr(read_back, field.name)
        if value != value_back:
            yield (
                f"config.json of `{model_type}` cannot express {field.name} = {value}: it would be "
                f"read as {value_back}. Use another family, or keep the teacher's {field.name}."
            )


class FamilyRegistry(dict[str, Family]):
    """Families by `model_type`: the `FAMILY` of every module of a package."""

    def __init__(self, package: str, paths: Iterable[str]):
        super().__init__()
        for module in pkgutil.iter_modules(paths):
            family = getattr(importlib.import_module(f"{package}.{module.name}"), "FAMILY", None)
            if family is not None:
                self.update(dict.fromkeys(family.model_types, family))

    def __getitem__(self, model_type: Any) -> Family:
        """Return the family of a `model_type`.

        Raises:
            UserError: The type is unknown.
        """
        if not isinstance(model_type, str) or model_type not in self:
            known = sorted(self)
            raise UserError(
                f"config.json: `model_type` is {model_type!r}, expected one of "
                f"{', '.join(known)}.{did_you_mean(str(model_type), known)}"
            )
        return super().__getitem__(model_type)
