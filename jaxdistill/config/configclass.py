"""Class decorator of all config classes."""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic_core import CoreSchema

_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(pydantic.Field,))
def configclass(cls: type[_Class]) -> type[_Class]:
    """Make a class a frozen, keyword-only dataclass whose fields pydantic validates.

    Unknown fields are refused. Numbers are strict: YAML reads `no` as False, which lax pydantic
    would accept as the learning rate 0.0. The JSON schema takes each field's description from the
    `Args:` or `Attributes:` of the class's docstring.
    """
    setattr(cls, "__get_pydantic_json_schema__", classmethod(_json_schema_with_docstrings))  # noqa: B010
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)  # pyright: ignore


def _json_schema_with_docstrings(
    cls: type, core: CoreSchema, handler: pydantic.GetJsonSchemaHandler
) -> dict[str, Any]:
    """Return the JSON schema of `cls`, described by its docstring and those of its bases."""
    from docstring_parser.google import parse  # not needed to read a config

    schema = handler(core)
    definition = handler.resolve_ref_schema(schema)
    descriptions: dict[str, str] = {}
    docstring = parse("")
    for base in reversed(cls.__mro__):  # the class itself comes last
        docstring = parse(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        descriptions |= {param.arg_name: param.description or "" for param in docstring.params}
    definition["description"] = docstring.description or ""
    properties = definition["properties"]
    definition["properties"] = {f.name: properties[f.name] for f in dataclasses.fields(cls)}
    for name in descriptions.keys() & properties.keys():
        properties[name]["description"] = descriptions[name]
    return schema
