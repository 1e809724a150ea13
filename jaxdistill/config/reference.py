"""Reference of config fields as Markdown: type, default and description of each.

It is generated from JSON schemas, and so from the annotations and docstrings of the classes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

_Schema = Mapping[str, Any]

_BOUND_TEXTS = {
    "exclusiveMinimum": "above {:,}",
    "minimum": "from {:,}",
    "exclusiveMaximum": "below {:,}",
    "maximum": "up to {:,}",
}
_MAPPING = "mapping, see below"
_TYPE_NAMES = {"integer": "whole number", "string": "text", "boolean": "`true` or `false`"}


@dataclass(frozen=True)
class ConfigSection:
    """Section of the reference: the fields of one mapping of a config.

    Attributes:
        name: Dotted name of the mapping; "" for the top of a config.
        type_name: The `type` that has these fields; None where there is no choice.
        description: Description of the class.
        field_lines: Line of Markdown for each field, by name.
    """

    name: str
    type_name: str | None
    description: str
    field_lines: Mapping[str, str]

    @property
    def key(self) -> str:
        """Name of the section for `explain`, such as `train.optimizer` or `objectives.uld`."""
        return ".".join(filter(None, (self.name, self.type_name)))

    @property
    def summary(self) -> str:
        """List item with the first paragraph of the description."""
        return f"- **`{self.type_name}`**: {self.description.partition(chr(10))[0]}"

    def __str__(self) -> str:
        """The section as Markdown."""
        title = f"`{self.name}`" + (f", `type: {self.type_name}`" if self.type_name else "")
        head = f"## {title}\n\n" if self.name else ""
        return "\n".join((f"{head}{self.description}\n", *self.field_lines.values())).rstrip()


def config_sections(cls: type, name: str = "") -> list[ConfigSection]:
    """Return the sections of a config class, from the top down; `name` is that of its mapping."""
    schema = pydantic.TypeAdapter(cls).json_schema()
    return list(_walk_schema(schema, name, schema.get("$defs", {})))


def _walk_schema(
    schema: _Schema, name: str, definitions: _Schema, type_name: str | None = None
) -> Iterator[ConfigSection]:
    required = schema.get("required", ())
    fields = {field: info for field, info in schema["properties"].items() if field != "type"}
    lines = {field: _field_line(field, info, field in required) for field, info in fields.items()}
    yield ConfigSection(name, type_name, _join_lines(schema["description"]), lines)
    for field, info in fields.items():
        inner = [definitions[ref] for ref in _definition_names(info)]
        for inner_schema in inner:
            choice = inner_schema["properties"]["type"]["const"] if len(inner) > 1 else None
            inner_name = f"{name}.{field}".lstrip(".")
            yield from _walk_schema(inner_schema, inner_name, definitions, choice)


def _definition_names(schema: _Schema) -> Iterator[str]:
    """Yield the names of the config classes that a field may hold."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _definition_names(member)
    if "items" in schema:
        yield from _definition_names(schema["items"])


def _field_line(name: str, schema: _Schema, is_required: bool) -> str:
    default = ""
    if is_required:
        default = "; required"
    elif "default" in schema and not isinstance(schema["default"], dict):
        default = f"; default `{json.dumps(schema['default'], ensure_ascii=False)}`"
    description = " ".join(schema["description"].split())
    return f"- **`{name}`** ({_type_text(schema)}{default}). {description}"


def _type_text(schema: _Schema) -> str:
    """Describe the type of a field in words."""
    if choices := schema.get("anyOf"):
        texts = [_type_text(choice) for choice in choices]
        return " or ".join(sorted(texts, key=lambda text: text == _MAPPING))
    if any(_definition_names(schema)):
        return "list of mappings, see below" if "items" in schema else _MAPPING
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return " or ".join(f"`{choice}`" for choice in choices)
    if schema["type"] == "array":
        if pair := schema.get("prefixItems"):
            return f"[{', '.join(map(_type_text, pair))}]"
        return f"list of {_type_text(schema['items'])}"
    if schema["type"] == "object":
        return "mapping"
    bounds = [text.format(schema[name]) for name, text in _BOUND_TEXTS.items() if name in schema]
    kind = _TYPE_NAMES.get(schema["type"], schema["type"])
    return f"{kind} {', '.join(bounds)}".rstrip()


def _join_lines(text: str) -> str:
    """Remove the line breaks inside the paragraphs of a docstring."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))
