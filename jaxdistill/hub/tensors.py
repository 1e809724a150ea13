"""Lazy tensors: name, shape and dtype of a tensor in a file, read on demand."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdistill.errors import ErrorCollector, UserError, did_you_mean

WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Supported dtypes of stored weights; others are quantised formats, refused by name."""

PARAM_DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes of parameters in memory and in exported folders."""


@dataclass(frozen=True)
class LazyTensor:
    """Tensor in a file, or one that is computed when it is read.

    Args:
        shape: Its shape.
        dtype: NumPy's name of its dtype, or the file format's name if NumPy has none.
        read: Returns the whole tensor in memory that the caller may keep.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        UserError: The file is missing, or not a JSON object.
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
    """Open a folder's `model.safetensors`, or the weight files that its index names.

    Only headers are read here.

    Raises:
        UserError: Names all files that are missing, truncated or not safetensors.
    """
    weight_map = _read_weight_map(folder)
    if weight_map is None:
        return dict(_open_safetensors_file(folder / WEIGHTS_NAME))
    files: dict[str, dict[str, LazyTensor]] = {}
    findings = ErrorCollector()
    for file in sorted(set(weight_map.values())):
        with findings.collect():
            files[file] = dict(_open_safetensors_file(folder / file))
    findings.raise_if_any()
    # A name that its file lacks is left out, and later reported as a missing tensor.
    return {name: files[file][name] for name, file in weight_map.items() if name in files[file]}


def safetensors_files(folder: Path) -> list[str]:
    """Return the names of the files that `open_safetensors` reads.

    Raises:
        UserError: The index is damaged.
    """
    weight_map = _read_weight_map(folder)
    return [WEIGHTS_NAME] if weight_map is None else sorted(set(weight_map.values()))


def _read_weight_map(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor, read from the folder's index; None if it has no index."""
    path = folder / WEIGHTS_INDEX_NAME
    if not path.exists():
        return None
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise UserError(f"{path}: has no `weight_map`.")
    wrong = [
        f"{path}: `weight_map` puts {name} into {file!r}, expected the name of a .safetensors "
        "file in the model's folder."
        for name, file in weight_map.items()
        if not (isinstance(file, str) and _is_weight_file_name(file))
    ]
    if wrong:
        raise UserError(*wrong)
    return dict(weight_map)


def _is_weight_file_name(name: str) -> bool:
    return Path(name).name == name and name.endswith(".safetensors") and name.isprintable()


def _open_safetensors_file(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        # Mapped pages would count as memory of this process beside the copy; `pread` maps none.
        file = safe_open(path, framework="numpy", backend="pread")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; the model is incomplete.") from None
    except (SafetensorError, OSError, UnicodeError) as error:
        if path.is_dir():
            raise UserError(f"{path}: a folder, expected a safetensors file.") from None
        size = path.stat().st_size if path.is_file() else 0
        raise UserError(
            f"{path}: not a complete safetensors file ({error}; it has {size:,} bytes). "
            "Was it cut short? Copy or download it again."
        ) from None
    for name in file.keys():  # noqa: SIM118 - the file is not a dict
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
    """Check that parameters can have this dtype; None (as stored) passes.

    Raises:
        UserError: `dtype` is not one of `PARAM_DTYPES`.
    """
    if dtype is not None and dtype not in PARAM_DTYPES:
        raise UserError(
            f"dtype: {dtype!r} is not one of {', '.join(PARAM_DTYPES)}."
            f"{did_you_mean(str(dtype), PARAM_DTYPES)}"
        )


def check_range(name: str, array: np.ndarray, dtype: np.dtype) -> None:
    """Check that a cast to `dtype` makes no number infinite.

    Raises:
        UserError: `dtype` is float16, and a number is too large for it.
    """
    if dtype == np.float16 and array.dtype != np.float16 and array.size:
        largest = float(np.abs(array).max())
        if largest > float(np.finfo(np.float16).max):
            raise UserError(
                f"tensor {name}: {largest:.4g} is too large for float16. Use bfloat16 or float32."
            )
