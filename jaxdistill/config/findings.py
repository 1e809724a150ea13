"""What pydantic found wrong, said so that a user can mend it: one line a mistake."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from jaxdistill.errors import nearest


def findings(cls: type, content: Any, error: pydantic.ValidationError) -> list[str]:
    """One line a mistake: the dotted path, what came, what was expected, the nearest word."""
    found: dict[str, list[tuple[type, Any]]] = {}
    for item in error.errors():
        path, owner = _walk(cls, content, item["loc"])
        found.setdefault(path, []).append((owner, item))
    return [_line(path, found[path]) for path in found if not _is_echo(path, found)]


def _is_echo(path: str, paths: Iterable[str]) -> bool:
    """A list in which an item was refused is also called too short, or not a number."""
    return any(other.startswith((f"{path}.", f"{path}[")) for other in paths)


def _line(path: str, found: Sequence[tuple[type, Any]]) -> str:
    """What is wrong at `path`; several items where each of a union's members was refused."""
    owner, item = found[0]
    if len(found) == 1:
        return _single(path, owner, item)
    wanted = dict.fromkeys(_message(item).removeprefix("input should be ") for _, item in found)
    return f"{path}: input should be {' or '.join(wanted)}; got {_shown(item['input'])}."


def _single(path: str, owner: type, item: Any) -> str:
    kind = item["type"]
    name = str(item["loc"][-1]) if item["loc"] else ""
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields(owner)
        hint = nearest(name, known) or f" It has {', '.join(known)}."
        return f"{path}: {owner.__name__} has no such field.{hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: missing; {owner.__name__} cannot do without it."
    if kind == "union_tag_invalid":
        tag, known = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "").split(", ")
        listed = ", ".join(known)
        return f"{path}.type: no choice is called `{tag}`.{nearest(tag, known)} Known: {listed}."
    if kind == "union_tag_not_found":
        return f"{path}: say which with `type: ...`."
    if kind == "literal_error":
        known = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        came = str(item["input"])
        return f"{path}: `{came}` is not one of {', '.join(known)}.{nearest(came, known)}"
    if kind == "too_short":
        least, came = item["ctx"]["min_length"], item["ctx"]["actual_length"]
        return f"{path}: holds {came or 'nothing'}; expected at least {least}."
    if kind == "value_error":
        return f"{path}: {_message(item)}"
    return f"{path}: {_message(item)}; got {_shown(item['input'])}."


def _message(item: Any) -> str:
    message = item["msg"].removeprefix("Value error, ").replace("a valid array", "a list")
    return message[:1].lower() + message[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    kind = {str: "text", bool: "true/false", type(None): "nothing"}.get(type(value), "")
    return f"{text[:60]} ({kind})" if kind else text[:60]


def _walk(cls: type, content: Any, location: tuple[Any, ...]) -> tuple[str, type]:
    """The dotted path of `location`, and the config class that its last step is a field of.

    Inside a choice pydantic adds the value of `type` to the location, and inside a union the name
    of the member that it tried; they are no part of the path.
    """
    path, owner, annotation, value = "", cls, cls, content
    for step in location:
        holder = _class_of(annotation, value) or owner
        known = isinstance(value, dict) and (step in value or step in _fields(holder))
        if isinstance(step, str) and not known:
            continue
        owner = holder
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
        annotation = _below(annotation, owner, step)
        if isinstance(value, dict):
            value = value.get(step)
        else:
            value = value[step] if isinstance(value, list) and isinstance(step, int) else None
    return path.lstrip(".") or "config", owner


def _class_of(annotation: Any, value: Any) -> type | None:
    """The config class that `value` was read as."""
    classes = [
        c for c in _alternatives(annotation) if isinstance(c, type) and dataclasses.is_dataclass(c)
    ]
    if isinstance(value, dict) and "type" in value:
        named = [c for c in classes if value["type"] in get_args(c.__annotations__.get("type"))]
        classes = named or classes
    return classes[0] if classes else None


def _below(annotation: Any, owner: type, step: Any) -> Any:
    if isinstance(step, int):
        inner = [get_args(a) for a in _alternatives(annotation) if get_origin(a) in (tuple, list)]
        return inner[0][0] if inner and inner[0] else Any
    return get_type_hints(owner, include_extras=True).get(step, Any)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, however it is written."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _alternatives(one)
    elif origin is not Literal:
        yield annotation


def _fields(owner: type) -> list[str]:
    return [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
