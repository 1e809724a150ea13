"""Templates filled with the fields of a row, such as `Question: {question}`."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from jaxdistill.data.messages import is_list
from jaxdistill.errors import UserError, did_you_mean

_FIELD_NAME = re.compile(r"(?P<name>[^\[\]]+)(?P<items>(\[[^\[\]]+\])*)")


def fill_template(template: str, fields: Mapping[str, Any], *, template_name: str) -> str:
    """Fill a template with the fields of a row; null counts as absent.

    `{answers[0]}` takes an item of a field, `{{` and `}}` are braces. Fields are text as they are:
    there are no widths and no attributes. Messages call the template by `template_name`.

    Raises:
        UserError: if the row lacks a field, a field is not text, or the template is invalid.
    """
    texts: list[str] = []
    for text, name in _parse(template, template_name):
        texts.append(text)
        if name is not None:
            value = lookup_field(name, fields, template_name=template_name)
            texts.append(field_to_text(value, name))
    return "".join(texts)


def take_field(template: str, fields: Mapping[str, Any], *, template_name: str) -> Any:
    """Return the value of the one field that a template such as `{dialog}` names; None for null.

    Raises:
        UserError: if the template is more than one field.
    """
    parsed = _parse(template, template_name)
    if len(parsed) != 1 or parsed[0][0] or not parsed[0][1]:
        raise UserError(
            f"{template_name}: {template!r} stands for a list, which is one field taken whole, "
            "such as '{dialog}'."
        )
    name = parsed[0][1]
    is_null = name in fields and fields[name] is None
    return None if is_null else lookup_field(name, fields, template_name=template_name)


def _parse(template: str, template_name: str) -> list[tuple[str, str | None]]:
    """Return pairs of text and the field after it (None at the end)."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{template_name}: {template!r} is no template: {error}.") from None
    for _, name, form, conversion in parts:
        if form or conversion or name == "":
            raise UserError(
                f"{template_name}: {template!r} is no template: a field is its name in braces, "
                "such as `{question}`, without a width or a conversion. Write `{{` and `}}` for "
                "braces."
            )
    return [(text, name) for text, name, _, _ in parts]


def lookup_field(name: str, fields: Mapping[str, Any], *, template_name: str) -> Any:
    """Return a field of a row, or an item of it: `answer`, `answers[0]`, `answers[text]`.

    Raises:
        UserError: if the row lacks the field, or has null.
    """
    value = fields.get(name)
    if value is None and (match := _FIELD_NAME.fullmatch(name)):
        value = fields.get(match["name"])
        for key in re.findall(r"\[([^\]]+)\]", match["items"]):
            value = _item(value, key)
    if value is not None:
        return value
    known = [str(field) for field, value in fields.items() if value is not None]
    is_null = name in fields
    braces = "" if re.fullmatch(r"[\w .\[\]-]+", name) else " Write `{{` and `}}` for braces."
    raise UserError(
        f"has {f'null as `{name}`' if is_null else f'no `{name}`'}, which {template_name} names; "
        f"it has {', '.join(known)}.{'' if is_null else did_you_mean(name, known)}{braces}"
    )


def _item(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if is_list(value) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
        return value[int(key)]
    return None


def field_to_text(value: Any, name: str) -> str:
    """Convert the value of a field to text.

    Raises:
        UserError: for a list, an object or binary data.
    """
    if isinstance(value, bytes):
        raise UserError(f"`{name}` is binary data, expected text.")
    if isinstance(value, (list, dict)):
        is_array = isinstance(value, list)
        item = f"{name}[0]" if is_array else f"{name}[{next(iter(value), 'key')}]"
        kind = "a list" if is_array else "an object"
        raise UserError(f"`{name}` is {kind}, expected text. Name an item of it, such as `{item}`.")
    return str(value)
