"""Tensors that are still in their file: named, shaped, and read one at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdistill.errors import UserError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

FLOAT_DTYPES = ("float64", "float32", "float16", "bfloat16")
"""What weights may be stored as; anything else is a quantised format and is refused by name."""

_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    Args:
        shape: Its shape.
        dtype: One of `FLOAT_DTYPES`, or the format's own name for what we do not compute with.
        read: Reads it, whole, into memory that nobody else holds on to.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: It is not there, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}). Is the download complete?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def open_safetensors(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of a folder's `model.safetensors`, or of the shards that its index names.

    Only headers are read here.

    Raises:
        UserError: Files are missing, truncated, or not what they are called; all are named.
    """
    if not (folder / INDEX_NAME).is_file():
        return dict(_open_file(folder / SINGLE_NAME))
    weight_map = read_json(folder / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise UserError(f"{folder / INDEX_NAME}: has no `weight_map`.")
    shards: dict[str, dict[str, LazyTensor]] = {}
    problems: list[str] = []
    for shard in sorted(set(weight_map.values())):
        try:
            shards[shard] = dict(_open_file(folder / shard))
        except UserError as error:
            problems.extend(error.lines)
    if problems:
        raise UserError(*problems)
    # A name that its shard does not hold is left out, and later reported as a missing tensor.
    return {
        name: shards[shard][name] for name, shard in weight_map.items() if name in shards[shard]
    }


def _open_file(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        # Mapped pages would count as memory of ours next to the copy; `pread` reads just the copy.
        file = safe_open(path, framework="numpy", backend="pread")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; the model is not whole.") from None
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise UserError(
            f"{path}: not a whole safetensors file ({error}; it has {size:,} bytes). "
            "Was it cut short? Copy or download it again."
        ) from None
    for name in file.keys():  # noqa: SIM118 - the file is not a dict, it only has this method
        view = file.get_slice(name)
        code = str(view.get_dtype())
        yield (
            name,
            LazyTensor(
                shape=tuple(view.get_shape()),
                dtype=_SAFETENSORS_DTYPES.get(code, code),
                read=lambda file=file, name=name: file.get_tensor(name),
            ),
        )
