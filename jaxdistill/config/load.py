"""Reading of configs from YAML and dotted overrides, and writing back to YAML.

OmegaConf parses (unlike PyYAML it reads `1e-5` as a number), pydantic validates, and
`validation_errors` formats one line per mistake. There is no interpolation: `${...}` is text.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jaxdistill.config.validation_errors import format_validation_errors
from jaxdistill.errors import UserError, did_you_mean

_Class = TypeVar("_Class")


def load(cls: type[_Class], path: str | Path | None, overrides: Sequence[str] = ()) -> _Class:
    """Read a config of type `cls`.

    Args:
        cls: A `configclass`.
        path: A YAML file; its `base:` names another file to start from, relative to itself. None
            for the defaults.
        overrides: `a.b=value` or `list.0.field=value`, applied in order after the file. A value
            replaces the former one; a new `type` also removes the former choice's fields.

    Raises:
        UserError: The config has mistakes; one line each.
    """
    node = OmegaConf.create(_read_yaml(Path(path)) if path is not None else {})
    for override in overrides:
        _apply_override(node, override)
    content = OmegaConf.to_container(node, resolve=False)
    source = str(path) if path is not None else "config"
    binary = [name for name, value in _leaves(content, "") if isinstance(value, bytes)]
    if binary:
        raise UserError(*(f"{source}: {name}: binary data; write it as text." for name in binary))
    text = json.dumps(content)
    try:
        # JSON mode is strict about numbers, yet accepts lists as tuples.
        return pydantic.TypeAdapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        lines = format_validation_errors(cls, json.loads(text), error)
        raise UserError(*(f"{source}: {line}" for line in lines)) from None


def dump(config: Any) -> str:
    """Return the YAML text from which `load` reads an equal config."""
    return OmegaConf.to_yaml(OmegaConf.create(_to_json_values(config)))


def flatten(config: Any) -> dict[str, Any]:
    """Return every value of a config by its dotted name, as an override would name it."""
    return dict(_leaves(_to_json_values(config), ""))


def _to_json_values(config: Any) -> Any:
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def _leaves(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in items:
        if isinstance(name, bytes):
            yield f"{path}{name!r}", name
        elif isinstance(value, dict | list) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _read_yaml(path: Path, parents: tuple[Path, ...] = ()) -> dict[Any, Any]:
    try:
        if path.resolve() in parents:
            raise UserError(f"{path}: `base` leads back to this file. Remove one of the two.")
        node = OmegaConf.load(path)
    except FileNotFoundError:
        siblings = [str(p) for p in sorted(path.parent.glob("*.y*ml"))]
        raise UserError(
            f"{path}: no such config file.{did_you_mean(str(path), siblings)}"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; a config is a YAML file.") from None
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read as a config.") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, DictConfig):
        raise UserError(f"{path}: a config is a mapping `field: value`; this file holds a list.")
    content = OmegaConf.to_container(node, resolve=False)
    assert isinstance(content, dict)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"{path}: base: expected one file's name, got {base!r}.")
    return _merge(_read_yaml(path.parent / base, (*parents, path.resolve())), content)


def _merge(base: Any, override: Any) -> Any:
    """Merge `override` into `base`: mappings are joined, other values replaced.

    A mapping with another `type` replaces the former choice and all its fields.
    """
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    if "type" in override and override["type"] != base.get("type"):
        return override
    return base | {name: _merge(base.get(name), value) for name, value in override.items()}


def _parse_value(value: str) -> Any:
    """Parse the value of an override as YAML; text without quotes is kept verbatim."""
    content = OmegaConf.create(f"value: {value}" if value else "value: ''")
    parsed = OmegaConf.to_container(content, resolve=False)["value"]  # pyright: ignore
    is_bare = isinstance(parsed, str) and not value.lstrip().startswith(("'", '"', "|", ">"))
    return value.strip() if is_bare else parsed


def _apply_override(node: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"override `{override}`: expected `a.b=value`, with `=` and no spaces.")
    try:
        parsed = _parse_value(value)
        parent, _, field = key.rpartition(".")
        if field == "type" and parent and OmegaConf.select(node, key) != parsed:
            # A new choice: the fields of the former one are removed.
            key, parsed = parent, {"type": parsed}
        OmegaConf.update(node, key, parsed, merge=False, force_add=True)
    except RecursionError:
        raise UserError(f"override `{key}=...`: nested too deeply to be read.") from None
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, LookupError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"override `{override}`: {reason}") from None
