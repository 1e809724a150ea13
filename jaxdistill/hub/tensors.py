"""Tensors that are still in their file: named, shaped, and read one at a time."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdistill.errors import UserError, did_you_mean

WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What weights may be stored as; anything else is a quantised format and is refused by name."""

PARAM_DTYPES = ("float32", "bfloat16", "float16")
"""What parameters may be held and saved in."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    Args:
        shape: Its shape.
        dtype: NumPy's name, or the format's own name for what we do not compute with.
        read: Reads it, whole, into memory that nobody else holds on to.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: It is not there, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a JSON file.") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).split("; use ")[0]
        raise UserError(f"{path}: not JSON ({reason}). Is the download complete?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def open_safetensors(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of a folder's `model.safetensors`, or of the shards that its index names.

    Only headers are read here.

    Raises:
        UserError: Files are missing, truncated, or not what they are called; all are named.
    """
    if not (folder / WEIGHTS_INDEX_NAME).exists():
        return dict(_open_safetensors_file(folder / WEIGHTS_NAME))
    weight_map = read_json(folder / WEIGHTS_INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise UserError(f"{folder / WEIGHTS_INDEX_NAME}: has no `weight_map`.")
    nameless = [
        f"{folder / WEIGHTS_INDEX_NAME}: `weight_map` puts {name} into {shard!r}, expected a file's name."
        for name, shard in weight_map.items()
        if not isinstance(shard, str)
    ]
    if nameless:
        raise UserError(*nameless)
    shards: dict[str, dict[str, LazyTensor]] = {}
    problems: list[str] = []
    for shard in sorted(set(weight_map.values())):
        try:
            shards[shard] = dict(_open_safetensors_file(folder / shard))
        except UserError as error:
            problems.extend(error.lines)
    if problems:
        raise UserError(*problems)
    # A name that its shard does not hold is left out, and later reported as a missing tensor.
    return {
        name: shards[shard][name] for name, shard in weight_map.items() if name in shards[shard]
    }


def _open_safetensors_file(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        # Mapped pages would count as memory of ours next to the copy; `pread` reads just the copy.
        file = safe_open(path, framework="numpy", backend="pread")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; the model is not whole.") from None
    except (SafetensorError, OSError) as error:
        if path.is_dir():
            raise UserError(f"{path}: a folder, expected a safetensors file.") from None
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
                dtype=SAFETENSORS_DTYPES.get(code, code),
                read=lambda file=file, name=name: file.get_tensor(name),
            ),
        )


def check_dtype(dtype: str | None) -> None:
    """Refuse a dtype that is none for parameters; None, for the stored one, is fine.

    Raises:
        UserError: `dtype` is not one of `PARAM_DTYPES`.
    """
    if dtype is not None and dtype not in PARAM_DTYPES:
        raise UserError(
            f"dtype: {dtype!r} is not one of {', '.join(PARAM_DTYPES)}."
            f"{did_you_mean(str(dtype), PARAM_DTYPES)}"
        )


def check_range(name: str, array: np.ndarray, dtype: np.dtype) -> None:
    """Refuse to turn numbers into infinities.

    Raises:
        UserError: `dtype` is float16, and numbers are too large for it.
    """
    if dtype == np.float16 and array.dtype != np.float16 and array.size:
        largest = float(np.abs(array).max())
        if largest > float(np.finfo(np.float16).max):
            raise UserError(
                f"tensor {name}: {largest:.4g} is too large for float16. Use bfloat16 or float32."
            )
