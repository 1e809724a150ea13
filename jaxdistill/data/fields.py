"""Texts made of the fields of a row, by templates such as `Question: {question}`."""

from collections.abc import Mapping
from typing import Any

from jaxdistill.errors import UserError, nearest


def filled(template: str, fields: Mapping[str, Any], *, speaker: str) -> str:
    """A template with the fields of a row in its braces.

    Args:
        template: As `str.format` reads it.
        fields: The row's.
        speaker: Whose template it is, for messages: "the task", "`data.fields`".

    Raises:
        UserError: where the row lacks a field, or the template is none.
    """
    try:
        return template.format_map(fields)
    except KeyError as error:
        raise missing(error.args[0], fields, speaker=speaker) from None
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{speaker}: {template!r} is no template: {error}.") from None


def missing(name: object, fields: Mapping[str, Any], *, speaker: str) -> UserError:
    """That a row has no such field."""
    return UserError(
        f"has no `{name}`, which {speaker} speaks of; it has {', '.join(map(str, fields))}."
        f"{nearest(str(name), [str(field) for field in fields])}"
    )
