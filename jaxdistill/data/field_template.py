"""Texts made of the fields of a row, by templates such as `Question: {question}`."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from jaxdistill.errors import UserError, did_you_mean


def fill_template(template: str, fields: Mapping[str, Any], *, template_name: str) -> str:
    """A template with the fields of a row in its braces.

    Args:
        template: As `str.format` reads it; `{answers[0]}` is a part of a field.
        fields: The row's; one that is null counts as absent.
        template_name: Whose template it is, for messages: "the task", "`data.fields`".

    Raises:
        UserError: where the row lacks a field, a field is no text, or the template is none.
    """
    try:
        return _FieldFormatter(template_name).vformat(template, (), fields)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise UserError(f"{template_name}: {template!r} is no template: {error}.") from None


def lookup_field(name: str, fields: Mapping[str, Any], *, template_name: str) -> Any:
    """A field of a row, or a part of one: `answer`, `answers[0]`, `answers[text]`.

    Raises:
        UserError: where the row lacks it.
    """
    try:
        value, _ = Formatter().get_field(name, (), fields)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        value = None
    if value is not None:
        return value
    known = [str(one) for one, value in fields.items() if value is not None]
    braces = "" if re.fullmatch(r"[\w .\[\]-]+", name) else " Write `{{` and `}}` for braces."
    raise UserError(
        f"has no `{name}`, which {template_name} speaks of; it has {', '.join(known)}."
        f"{did_you_mean(name, known)}{braces}"
    )


def field_to_text(value: Any, name: str) -> str:
    """A field's text.

    Raises:
        UserError: for a list or an object.
    """
    _check_is_text(value, name)
    return str(value)


def _check_is_text(value: Any, name: str) -> None:
    if isinstance(value, (list, dict)):
        inside = f"{name}[0]" if isinstance(value, list) else f"{name}[{next(iter(value), 'key')}]"
        kind = "a list" if isinstance(value, list) else "an object"
        raise UserError(f"`{name}` is {kind}, and no text. Name a part of it, such as `{inside}`.")


class _FieldFormatter(Formatter):
    """Fills in what is there, and what is a text or a number."""

    def __init__(self, template_name: str):
        self.template_name = template_name

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        value = lookup_field(field_name, kwargs, template_name=self.template_name)
        _check_is_text(value, field_name)
        return value, field_name
