"""From YAML and dotted overrides to a checked config, and back to YAML.

OmegaConf reads (it takes `1e-5` for a number, as PyYAML does not), pydantic checks, and
`findings` turns what pydantic found into one line a mistake. There is no interpolation.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jaxdistill.config.findings import findings
from jaxdistill.errors import UserError, nearest

_Class = TypeVar("_Class")


def load(cls: type[_Class], path: str | Path | None, overrides: Sequence[str] = ()) -> _Class:
    """Read a config of type `cls`.

    Args:
        cls: A `configclass`.
        path: A YAML file, which may name another to start from in `base:` (relative to itself);
            None for the defaults.
        overrides: `a.b=value` or `list.0.field=value`, applied in order after the file. What is
            given replaces what was there; another `type` also takes away the fields beside it.

    Raises:
        UserError: with every mistake that was found, a line each.
    """
    node = _read(Path(path)) if path is not None else OmegaConf.create({})
    for override in overrides:
        _apply(node, override)
    content = OmegaConf.to_container(node, resolve=False)
    where = str(path) if path is not None else "config"
    try:
        # The JSON mode is strict about numbers, yet takes lists for tuples.
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(content))
    except pydantic.ValidationError as error:
        raise UserError(*(f"{where}: {line}" for line in findings(cls, content, error))) from None


def dump(config: Any) -> str:
    """The YAML that `load` reads back to an equal `config`."""
    return OmegaConf.to_yaml(OmegaConf.create(_content(config)))


def flat(config: Any) -> dict[str, Any]:
    """Every value of `config` by its dotted name, as it would stand in an override."""
    return dict(_leaves(_content(config), ""))


def _content(config: Any) -> Any:
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def _leaves(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in inner:
        if isinstance(value, dict | list) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _read(path: Path, below: tuple[Path, ...] = ()) -> DictConfig:
    if path.resolve() in below:
        raise UserError(f"{path}: `base` leads back to this file. Remove one of the two.")
    try:
        node = OmegaConf.load(path)
    except FileNotFoundError:
        siblings = [str(p) for p in sorted(path.parent.glob("*.y*ml"))]
        raise UserError(f"{path}: no such config file.{nearest(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, DictConfig):
        raise UserError(f"{path}: a config is a mapping `field: value`; this file holds a list.")
    base = node.pop("base", None)
    if base is None:
        return node
    below_it = _read(path.parent / str(base), (*below, path.resolve()))
    _forget_other_choices(below_it, node)
    merged = OmegaConf.merge(below_it, node)
    assert isinstance(merged, DictConfig)
    return merged


def _forget_other_choices(base: DictConfig, node: DictConfig) -> None:
    """Where `node` makes another choice (`type`), the fields of the choice in `base` go."""
    for name, value in node.items():
        before = base.get(name)
        if isinstance(value, DictConfig) and isinstance(before, DictConfig):
            if "type" in value and value["type"] != before.get("type"):
                base[name] = {}
            else:
                _forget_other_choices(before, value)


def _apply(node: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"override `{override}`: expected `a.b=value`, with `=` and no spaces.")
    try:
        parsed = OmegaConf.create(f"value: {value}" if value else "value: ''").value
        chosen, _, last = key.rpartition(".")
        if last == "type" and chosen and OmegaConf.select(node, key) != parsed:
            # Another choice: the fields of the one before it go.
            key, parsed = chosen, {"type": parsed}
        OmegaConf.update(node, key, parsed, merge=False, force_add=True)
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"override `{override}`: {reason}") from None
