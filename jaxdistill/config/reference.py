"""What may stand in a config, for people: each field with its kind, its default and what it means.

It is made of the JSON schema of the classes, and so of their own annotations and docstrings.
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
_TYPE_NAMES = {"integer": "whole number", "string": "text", "boolean": "`true` or `false`"}


@dataclass(frozen=True)
class ConfigSection:
    """The fields that stand together in one place.

    Attributes:
        name: The dotted name of the place; empty for the top of a config.
        choice: The `type` that has these fields, where others have other ones.
        text: What it is about.
        fields: A line of Markdown for each by its name.
    """

    name: str
    type_name: str | None
    description: str
    field_lines: Mapping[str, str]

    @property
    def key(self) -> str:
        """What it is asked for by: `train.optimizer`, `objectives.uld`."""
        return ".".join(filter(None, (self.name, self.type_name)))

    @property
    def summary(self) -> str:
        """The first paragraph of it, in a line of a list."""
        return f"- **`{self.type_name}`**: {self.description.partition(chr(10))[0]}"

    def __str__(self) -> str:
        """The section as Markdown."""
        title = f"`{self.name}`" + (f", `type: {self.type_name}`" if self.type_name else "")
        head = f"## {title}\n\n" if self.name else ""
        return "\n".join((f"{head}{self.description}\n", *self.field_lines.values())).rstrip()


def config_sections(cls: type, name: str = "") -> list[ConfigSection]:
    """The places of a config, from the top down.

    Args:
        cls: A `configclass`.
        name: Where it stands, if not at the top.
    """
    schema = pydantic.TypeAdapter(cls).json_schema()
    return list(_walk_schema(schema, name, schema.get("$defs", {})))


def _walk_schema(
    schema: _Schema, name: str, definitions: _Schema, type_name: str | None = None
) -> Iterator[ConfigSection]:
    required = schema.get("required", ())
    fields = {field: one for field, one in schema["properties"].items() if field != "type"}
    lines = {field: _field_line(field, one, field in required) for field, one in fields.items()}
    yield ConfigSection(name, type_name, _join_lines(schema["description"]), lines)
    for field, one in fields.items():
        below = [definitions[ref] for ref in _definition_names(one)]
        for inner in below:
            chosen = inner["properties"]["type"]["const"] if len(below) > 1 else None
            yield from _walk_schema(inner, f"{name}.{field}".lstrip("."), definitions, chosen)


def _definition_names(schema: _Schema) -> Iterator[str]:
    """The parts of a schema that a field may hold, by name."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _definition_names(one)
    if "items" in schema:
        yield from _definition_names(schema["items"])


def _field_line(name: str, schema: _Schema, is_required: bool) -> str:
    default = ""
    if is_required:
        default = "; required"
    elif "default" in schema and not any(_definition_names(schema)):
        default = f"; default `{json.dumps(schema['default'], ensure_ascii=False)}`"
    said = " ".join(schema["description"].split())
    return f"- **`{name}`** ({_type_text(schema)}{default}). {said}"


def _type_text(schema: _Schema) -> str:
    """What a field holds, in words."""
    if any(_definition_names(schema)):
        return "list of mappings, see below" if "items" in schema else "mapping, see below"
    if choices := schema.get("anyOf"):
        return " or ".join(map(_type_text, choices))
    if choices := schema.get("enum"):
        return " or ".join(f"`{one}`" for one in choices)
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
    """A docstring without the line breaks inside of its paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))
