"""`configclass`: the one kind of class that a config is made of."""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic_core import CoreSchema

_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(pydantic.Field,))
def configclass(cls: type[_Class]) -> type[_Class]:
    """A frozen, keyword-only dataclass whose fields pydantic checks, in YAML and in Python alike.

    Unknown fields are refused. Numbers are strict: YAML reads `no` as False, and lax pydantic
    would take that for the learning rate 0.0. The docstring says what the fields mean, and its
    JSON schema has it, field by field.
    """
    setattr(cls, "__get_pydantic_json_schema__", classmethod(_json_schema_with_docstrings))  # noqa: B010
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)  # pyright: ignore


def _json_schema_with_docstrings(
    cls: type, core: CoreSchema, handler: pydantic.GetJsonSchemaHandler
) -> dict[str, Any]:
    """The JSON schema of `cls`, with what docstrings say of its fields: its own and its bases'."""
    from docstring_parser.google import parse  # who reads a config has no need of it

    schema = handler(core)
    described = handler.resolve_ref_schema(schema)
    texts: dict[str, str] = {}
    said = parse("")
    for base in reversed(cls.__mro__):  # the class itself is the last
        said = parse(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        texts |= {one.arg_name: one.description or "" for one in said.params}
    described["description"] = said.description or ""
    fields = described["properties"]
    described["properties"] = {one.name: fields[one.name] for one in dataclasses.fields(cls)}
    for name, text in texts.items():
        if name in fields:
            fields[name]["description"] = text
    return schema
