"""Hugging Face folders out: what plain PyTorch `transformers` loads."""

import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.files import atomic_directory, check_path_names
from jaxdistill.hub.pretrained import Pretrained
from jaxdistill.hub.tensors import LazyTensor, check_dtype, check_range
from jaxdistill.hub.weight_files import write_safetensors, write_torch
from jaxdistill.models import TensorRule

ExportFormat = Literal["safetensors", "torch"]
WeightsWriter = Callable[[Path, dict[str, LazyTensor]], None]

# What a model's folder holds, and saving may replace.
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "additional_chat_templates",
)
_FORMATS: dict[str, tuple[str, str, WeightsWriter]] = {
    # stem; suffix; writer of one file
    "safetensors": ("model", "safetensors", write_safetensors),
    "torch": ("pytorch_model", "bin", write_torch),
}


def save(
    pretrained: Pretrained,
    directory: str | Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    format: ExportFormat = "safetensors",
    dtype: str | None = None,
) -> Path:
    """Write a model as a Hugging Face folder, all of it or nothing.

    Weights, `config.json`, `generation_config.json` and the tokenizer's files are written beside
    `directory`, which they replace in the end. Tensors leave memory one at a time.

    Args:
        pretrained: The model.
        directory: Where to; it may hold an older model, but nothing else.
        max_shard_bytes: Weights beyond this go into several files and an index of them.
        format: `safetensors`, or `torch` for a `pytorch_model.bin` (PyTorch must be installed).
        dtype: To store the weights in; None stores each as it is in memory, which for a model
            loaded with `dtype=None` is as it was in its file, bit for bit.

    Returns:
        The directory.

    Raises:
        UserError: The disk is full, the directory holds other things, PyTorch is not installed.
    """
    directory = Path(directory).expanduser()
    check_path_names(directory)
    check_dtype(dtype)
    _check_replaceable(directory)
    tensors = _hf_tensors(pretrained, dtype)
    config = pretrained.family.hf_config(pretrained.config, pretrained.hf_config)
    config.pop("torch_dtype", None)
    config["dtype"] = _common_dtype(tensors)
    with atomic_directory(directory) as temporary:
        _write_weights(temporary, tensors, max_shard_bytes, *_FORMATS[format])
        _write_json(temporary / "config.json", config)
        if pretrained.generation_config:
            _write_json(temporary / "generation_config.json", pretrained.generation_config)
        if pretrained.tokenizer is not None:
            pretrained.tokenizer.save_pretrained(temporary)
    return directory


def _check_replaceable(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory}: is a file, and a model is a folder. Name a new folder.")
    others = [
        child.name
        for child in sorted(directory.iterdir())
        if not any(fnmatchcase(child.name, pattern) for pattern in _MODEL_FILES)
    ]
    if others:
        raise UserError(
            f"{directory}: saving replaces a whole folder, and this one holds what no model does: "
            f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}. Name a new folder."
        )


def _hf_tensors(pretrained: Pretrained, dtype: str | None) -> dict[str, LazyTensor]:
    """Every tensor of the folder to be, made from the parameters when it is read."""
    tensors = {}
    for rule in pretrained.family.tensor_rules(pretrained.config):
        arrays = [_get_leaf(pretrained.params, path) for path in rule.paths]
        stored = np.dtype(dtype or jnp.result_type(*arrays))
        for layer, name in rule.tensor_names(pretrained.config.num_layers):
            read = partial(_hf_tensor, rule, arrays, layer, name, stored)
            tensors[name] = LazyTensor(rule.shape, stored.name, read)
    return tensors


def _hf_tensor(
    rule: TensorRule, arrays: list[Any], layer: int | None, name: str, dtype: np.dtype
) -> np.ndarray:
    # One layer at a time leaves the device.
    slices = [np.asarray(array if layer is None else array[layer]) for array in arrays]
    tensor = rule.to_hf_tensor(*slices)
    check_range(name, tensor, dtype)
    return tensor.astype(dtype, copy=False)


def _write_weights(
    folder: Path,
    tensors: dict[str, LazyTensor],
    max_shard_bytes: int,
    stem: str,
    suffix: str,
    write: WeightsWriter,
) -> None:
    shards = list(_split_by_size(tensors, max_shard_bytes))
    if len(shards) == 1:
        write(folder / f"{stem}.{suffix}", tensors)
        return
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        write(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.{suffix}.index.json", index)


def _split_by_size(tensors: dict[str, LazyTensor], max_shard_bytes: int) -> Iterator[list[str]]:
    """The names, split where the next tensor would not fit; a larger one is alone in its file."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.num_bytes > max_shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.num_bytes
    yield names


def _common_dtype(tensors: dict[str, LazyTensor]) -> str:
    """What `transformers` is to hold all weights in, so that none of them is rounded."""
    return jnp.result_type(*{tensor.dtype for tensor in tensors.values()}).name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _get_leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
