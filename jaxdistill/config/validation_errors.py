"""Validation errors of pydantic as text for users, one line per mistake."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from jaxdistill.errors import did_you_mean

_UNKNOWN_FIELD = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING_FIELD = ("missing", "missing_argument", "missing_keyword_only_argument")


def format_validation_errors(cls: type, content: Any, error: pydantic.ValidationError) -> list[str]:
    """Return one line per mistake: its dotted path, what came, what was expected, the nearest."""
    errors_by_path: dict[str, list[tuple[type, Any]]] = {}
    for item in error.errors():
        path, owner = _locate(cls, content, item["loc"])
        errors_by_path.setdefault(path, []).append((owner, item))
    misspelt = set(_misspelt_paths(errors_by_path))
    return [
        _format_path_errors(path, errors)
        for path, errors in errors_by_path.items()
        if not (_is_parent_of_error(path, errors_by_path) or path in misspelt)
    ]


def _misspelt_paths(errors_by_path: Mapping[str, Sequence[tuple[type, Any]]]) -> Iterator[str]:
    """Yield the paths of missing fields that stand there under a name that is nearly theirs."""
    for path, errors in errors_by_path.items():
        owner, error = errors[0]
        if error["type"] in _UNKNOWN_FIELD:
            parent, dot, name = path.rpartition(".")
            for missing in _field_names(owner):
                same_place = errors_by_path.get(f"{parent}{dot}{missing}", ())
                is_missing = any(other["type"] in _MISSING_FIELD for _, other in same_place)
                if is_missing and did_you_mean(name, [missing]):
                    yield f"{parent}{dot}{missing}"


def _is_parent_of_error(path: str, paths: Iterable[str]) -> bool:
    """Return whether the error repeats that of an item: a list without it is called too short."""
    return any(other.startswith((f"{path}.", f"{path}[")) for other in paths)


def _format_path_errors(path: str, errors: Sequence[tuple[type, Any]]) -> str:
    """Format the errors at `path`; there are several if it is a union, one per member."""
    owner, item = errors[0]
    if len(errors) == 1:
        return _format_error(path, owner, item)
    expected = dict.fromkeys(
        _pydantic_message(item).removeprefix("input should be ") for _, item in errors
    )
    return f"{path}: input should be {' or '.join(expected)}; got {_format_value(item['input'])}."


def _format_error(path: str, owner: type, error: Any) -> str:
    kind = error["type"]
    name = str(error["loc"][-1]) if error["loc"] else ""
    if kind in _UNKNOWN_FIELD:
        known = _field_names(owner)
        hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
        return f"{path}: there is no such field.{hint}"
    if kind in _MISSING_FIELD:
        return f"{path}: missing; it has to be given."
    if kind == "union_tag_invalid":
        tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "").split(", ")
        known_list = ", ".join(known)
        hint = did_you_mean(tag, known)
        return f"{path}.type: no choice is called `{tag}`.{hint} Known: {known_list}."
    if kind == "union_tag_not_found":
        return f"{path}: the choice is missing; add `type: ...`."
    if kind == "literal_error":
        known = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        value = str(error["input"])
        return f"{path}: `{value}` is not one of {', '.join(known)}.{did_you_mean(value, known)}"
    if kind == "too_short":
        least, length = error["ctx"]["min_length"], error["ctx"]["actual_length"]
        return f"{path}: holds {length or 'nothing'}; expected at least {least}."
    if kind == "too_long":
        most, length = error["ctx"]["max_length"], error["ctx"]["actual_length"]
        return f"{path}: holds {length}; expected at most {most}."
    if kind == "value_error":
        return f"{path}: {_pydantic_message(error)}"
    return f"{path}: {_pydantic_message(error)}; got {_format_value(error['input'])}."


def _pydantic_message(error: Any) -> str:
    if error["type"] == "too_short":
        return f"a list of at least {error['ctx']['min_length']}"
    message = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("a valid array", "a list")
        .replace("an object", "a mapping")
    )
    return message[:1].lower() + message[1:]


def _format_value(value: Any) -> str:
    text = repr(value)
    kind = {str: "text", bool: "true/false", type(None): "nothing"}.get(type(value), "")
    return f"{text[:60]} ({kind})" if kind else text[:60]


def _locate(cls: type, content: Any, location: tuple[Any, ...]) -> tuple[str, type]:
    """Return the dotted path of a location, and the config class that its last step belongs to.

    Pydantic adds the value of `type` to the location inside a choice, and the member's name inside
    a union; neither belongs to the path.
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
        value = _child_value(value, step)
    return path.lstrip(".") or "config", owner


def _child_value(value: Any, step: Any) -> Any:
    """Return an item of a value; None where it is missing, as pydantic tells by its place."""
    try:
        return value[step] if isinstance(value, dict | list) else None
    except (LookupError, TypeError):  # TypeError: a name in a list
        return None


def _config_class(annotation: Any, value: Any) -> type | None:
    """Return the config class that `value` was read as."""
    classes = [
        c for c in _union_members(annotation) if isinstance(c, type) and dataclasses.is_dataclass(c)
    ]
    if isinstance(value, dict) and "type" in value:
        chosen = [c for c in classes if value["type"] in get_args(c.__annotations__.get("type"))]
        classes = chosen or classes
    return classes[0] if classes else None


def _child_annotation(annotation: Any, owner: type, step: Any) -> Any:
    if isinstance(step, int):
        items = [get_args(a) for a in _union_members(annotation) if get_origin(a) in (tuple, list)]
        return items[0][0] if items and items[0] else Any
    return get_type_hints(owner, include_extras=True).get(step, Any)


def _union_members(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, `Union[...]` or `|`, through `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _union_members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _union_members(member)
    elif origin is not Literal:
        yield annotation


def _field_names(owner: type) -> list[str]:
    return [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
