"""`configclass`: the one kind of class that a config is made of."""

from typing import TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses

_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(pydantic.Field,))
def configclass(cls: type[_Class]) -> type[_Class]:
    """A frozen, keyword-only dataclass whose fields pydantic checks, in YAML and in Python alike.

    Unknown fields are refused. Numbers are strict: YAML reads `no` as False, and lax pydantic
    would take that for the learning rate 0.0.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)  # pyright: ignore
