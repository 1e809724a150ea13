"""What pydantic found wrong, said so that a user can mend it: one line a mistake."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from jaxdistill.errors import did_you_mean


def format_validation_errors(cls: type, content: Any, error: pydantic.ValidationError) -> list[str]:
    """One line a mistake: the dotted path, what came, what was expected, the nearest word."""
    found: dict[str, list[tuple[type, Any]]] = {}
    for item in error.errors():
        path, owner = _locate(cls, content, item["loc"])
        found.setdefault(path, []).append((owner, item))
    return [
        _format_path_errors(path, found[path])
        for path in found
        if not _is_parent_of_error(path, found)
    ]


def _is_parent_of_error(path: str, paths: Iterable[str]) -> bool:
    """A list in which an item was refused is also called too short, or not a number."""
    return any(other.startswith((f"{path}.", f"{path}[")) for other in paths)


def _format_path_errors(path: str, errors: Sequence[tuple[type, Any]]) -> str:
    """What is wrong at `path`; several items where each of a union's members was refused."""
    owner, item = errors[0]
    if len(errors) == 1:
        return _format_error(path, owner, item)
    wanted = dict.fromkeys(
        _pydantic_message(item).removeprefix("input should be ") for _, item in errors
    )
    return f"{path}: input should be {' or '.join(wanted)}; got {_format_value(item['input'])}."


def _format_error(path: str, owner: type, error: Any) -> str:
    kind = error["type"]
    name = str(error["loc"][-1]) if error["loc"] else ""
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _field_names(owner)
        hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
        return f"{path}: {owner.__name__} has no such field.{hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: missing; {owner.__name__} cannot do without it."
    if kind == "union_tag_invalid":
        tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "").split(", ")
        listed = ", ".join(known)
        return (
            f"{path}.type: no choice is called `{tag}`.{did_you_mean(tag, known)} Known: {listed}."
        )
    if kind == "union_tag_not_found":
        return f"{path}: say which with `type: ...`."
    if kind == "literal_error":
        known = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        came = str(error["input"])
        return f"{path}: `{came}` is not one of {', '.join(known)}.{did_you_mean(came, known)}"
    if kind == "too_short":
        least, came = error["ctx"]["min_length"], error["ctx"]["actual_length"]
        return f"{path}: holds {came or 'nothing'}; expected at least {least}."
    if kind == "value_error":
        return f"{path}: {_pydantic_message(error)}"
    return f"{path}: {_pydantic_message(error)}; got {_format_value(error['input'])}."


def _pydantic_message(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ").replace("a valid array", "a list")
    return message[:1].lower() + message[1:]


def _format_value(value: Any) -> str:
    text = repr(value)
    kind = {str: "text", bool: "true/false", type(None): "nothing"}.get(type(value), "")
    return f"{text[:60]} ({kind})" if kind else text[:60]


def _locate(cls: type, content: Any, location: tuple[Any, ...]) -> tuple[str, type]:
    """The dotted path of `location`, and the config class that its last step is a field of.

    Inside a choice pydantic adds the value of `type` to the location, and inside a union the name
    of the member that it tried; they are no part of the path.
    """
    path, owner, annotation, value = "", cls, cls, content
    for step in location:
        holder = _config_class(annotation, value) or owner
        known = isinstance(value, dict) and (step in value or step in _field_names(holder))
        if isinstance(step, str) and not known:
            continue
        owner = holder
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
        annotation = _child_annotation(annotation, owner, step)
        if isinstance(value, dict):
            value = value.get(step)
        else:
            value = value[step] if isinstance(value, list) and isinstance(step, int) else None
    return path.lstrip(".") or "config", owner


def _config_class(annotation: Any, value: Any) -> type | None:
    """The config class that `value` was read as."""
    classes = [
        c for c in _union_members(annotation) if isinstance(c, type) and dataclasses.is_dataclass(c)
    ]
    if isinstance(value, dict) and "type" in value:
        named = [c for c in classes if value["type"] in get_args(c.__annotations__.get("type"))]
        classes = named or classes
    return classes[0] if classes else None


def _child_annotation(annotation: Any, owner: type, step: Any) -> Any:
    if isinstance(step, int):
        inner = [get_args(a) for a in _union_members(annotation) if get_origin(a) in (tuple, list)]
        return inner[0][0] if inner and inner[0] else Any
    return get_type_hints(owner, include_extras=True).get(step, Any)


def _union_members(annotation: Any) -> Iterator[Any]:
    """The members of a union, however it is written."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _union_members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _union_members(one)
    elif origin is not Literal:
        yield annotation


def _field_names(owner: type) -> list[str]:
    return [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
