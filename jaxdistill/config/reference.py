"""What may stand in a config, for people: each field with its kind, its default and what it means.

It is made of the JSON schema of the classes, and so of their own annotations and docstrings.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

_Schema = Mapping[str, Any]

_BOUNDS = {
    "exclusiveMinimum": "above {:,}",
    "minimum": "from {:,}",
    "exclusiveMaximum": "below {:,}",
    "maximum": "up to {:,}",
}
_KINDS = {"integer": "whole number", "string": "text", "boolean": "`true` or `false`"}


@dataclass(frozen=True)
class Section:
    """The fields that stand together in one place.

    Attributes:
        name: The dotted name of the place; empty for the top of a config.
        choice: The `type` that has these fields, where others have other ones.
        text: What it is about.
        fields: A line of Markdown for each by its name.
    """

    name: str
    choice: str | None
    text: str
    fields: Mapping[str, str]

    @property
    def key(self) -> str:
        """What it is asked for by: `train.optimizer`, `objectives.uld`."""
        return ".".join(filter(None, (self.name, self.choice)))

    @property
    def summary(self) -> str:
        """The first paragraph of it, in a line of a list."""
        return f"- **`{self.choice}`**: {self.text.partition(chr(10))[0]}"

    def __str__(self) -> str:
        """The section as Markdown."""
        title = f"`{self.name}`" + (f", `type: {self.choice}`" if self.choice else "")
        head = f"## {title}\n\n" if self.name else ""
        return "\n".join((f"{head}{self.text}\n", *self.fields.values())).rstrip()


def sections(cls: type, name: str = "") -> list[Section]:
    """The places of a config, from the top down.

    Args:
        cls: A `configclass`.
        name: Where it stands, if not at the top.
    """
    schema = pydantic.TypeAdapter(cls).json_schema()
    return list(_walk(schema, name, schema.get("$defs", {})))


def _walk(
    schema: _Schema, name: str, parts: _Schema, choice: str | None = None
) -> Iterator[Section]:
    required = schema.get("required", ())
    fields = {field: one for field, one in schema["properties"].items() if field != "type"}
    lines = {field: _line(field, one, field in required) for field, one in fields.items()}
    yield Section(name, choice, _paragraphs(schema["description"]), lines)
    for field, one in fields.items():
        below = [parts[ref] for ref in _references(one)]
        for inner in below:
            chosen = inner["properties"]["type"]["const"] if len(below) > 1 else None
            yield from _walk(inner, f"{name}.{field}".lstrip("."), parts, chosen)


def _references(schema: _Schema) -> Iterator[str]:
    """The parts of a schema that a field may hold, by name."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _references(one)
    if "items" in schema:
        yield from _references(schema["items"])


def _line(name: str, schema: _Schema, is_required: bool) -> str:
    default = ""
    if is_required:
        default = "; required"
    elif "default" in schema and not any(_references(schema)):
        default = f"; default `{json.dumps(schema['default'], ensure_ascii=False)}`"
    said = " ".join(schema["description"].split())
    return f"- **`{name}`** ({_kind(schema)}{default}). {said}"


def _kind(schema: _Schema) -> str:
    """What a field holds, in words."""
    if any(_references(schema)):
        return "list of mappings, see below" if "items" in schema else "mapping, see below"
    if choices := schema.get("anyOf"):
        return " or ".join(map(_kind, choices))
    if choices := schema.get("enum"):
        return " or ".join(f"`{one}`" for one in choices)
    if schema["type"] == "array":
        if pair := schema.get("prefixItems"):
            return f"[{', '.join(map(_kind, pair))}]"
        return f"list of {_kind(schema['items'])}"
    if schema["type"] == "object":
        return "mapping"
    bounds = [text.format(schema[name]) for name, text in _BOUNDS.items() if name in schema]
    kind = _KINDS.get(schema["type"], schema["type"])
    return f"{kind} {', '.join(bounds)}".rstrip()


def _paragraphs(text: str) -> str:
    """A docstring without the line breaks inside of its paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))
