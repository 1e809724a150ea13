"""Templates filled with the fields of a row, such as `Question: {question}`."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from jaxdistill.errors import UserError, did_you_mean


def fill_template(template: str, fields: Mapping[str, Any], *, template_name: str) -> str:
    """Fill a `str.format` template with the fields of a row; null counts as absent.

    `{answers[0]}` takes an item of a field. Messages call the template by `template_name`.

    Raises:
        UserError: if the row lacks a field, a field is not text, or the template is invalid.
    """
    try:
        return _FieldFormatter(template_name).vformat(template, (), fields)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise UserError(f"{template_name}: {template!r} is no template: {error}.") from None


def lookup_field(name: str, fields: Mapping[str, Any], *, template_name: str) -> Any:
    """Return a field of a row, or an item of it: `answer`, `answers[0]`, `answers[text]`.

    Raises:
        UserError: if the row lacks the field, or has null.
    """
    try:
        value, _ = Formatter().get_field(name, (), fields)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        value = None
    if value is not None:
        return value
    known = [str(field) for field, value in fields.items() if value is not None]
    braces = "" if re.fullmatch(r"[\w .\[\]-]+", name) else " Write `{{` and `}}` for braces."
    raise UserError(
        f"has no `{name}`, which {template_name} names; it has {', '.join(known)}."
        f"{did_you_mean(name, known)}{braces}"
    )


def field_to_text(value: Any, name: str) -> str:
    """Convert the value of a field to text.

    Raises:
        UserError: for a list or an object.
    """
    if isinstance(value, (list, dict)):
        is_list = isinstance(value, list)
        item = f"{name}[0]" if is_list else f"{name}[{next(iter(value), 'key')}]"
        kind = "a list" if is_list else "an object"
        raise UserError(f"`{name}` is {kind}, expected text. Name an item of it, such as `{item}`.")
    return str(value)


class _FieldFormatter(Formatter):
    """Formatter that refuses absent fields, lists and objects."""

    def __init__(self, template_name: str):
        self.template_name = template_name

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        value = lookup_field(field_name, kwargs, template_name=self.template_name)
        field_to_text(value, field_name)  # only to refuse lists and objects
        return value, field_name
