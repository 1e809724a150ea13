"""Writer of Hugging Face folders, which `transformers` 4.57 and 5 load alike."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from jaxdistill.errors import UserError
from jaxdistill.files import atomic_directory, check_path_names
from jaxdistill.hub.parameters import get_leaf
from jaxdistill.hub.pretrained import Pretrained
from jaxdistill.hub.tensors import SAFETENSORS_DTYPES, LazyTensor, check_range, read_json
from jaxdistill.hub.tokenizer_config import portable_tokenizer_config
from jaxdistill.models import TensorRule

_ALIGNMENT_BYTES = 8


def write_safetensors(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """Write the bytes that `safetensors.save_file` would, with one tensor in memory at a time.

    The format is the length of a header, the header (names, dtypes, shapes, offsets) and the
    tensors' bytes. As in the library, wide dtypes come first, so that every tensor is aligned.
    """
    order = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    codes = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].num_bytes
        header[name] = {
            "dtype": codes[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in order:
            # As bytes, since NumPy cannot write every dtype (bfloat16).
            file.write(np.ascontiguousarray(tensors[name].read()).reshape(-1).view(np.uint8).data)


def write_torch(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """Write a file for `torch.load(path, weights_only=True)`.

    Raises:
        UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "format=torch: only PyTorch writes its own files, and it is not installed. "
            "Run `pip install torch`, or use format safetensors, which PyTorch reads too."
        ) from None
    state = {}
    for name, tensor in tensors.items():
        # PyTorch does not know NumPy's bfloat16, but its bits are the same.
        bits = np.array(tensor.read(), order="C").view(f"i{np.dtype(tensor.dtype).itemsize}")
        state[name] = torch.from_numpy(bits).view(getattr(torch, tensor.dtype))
    # Unbuffered, so that errors of the system are raised inside `torch.save` ...
    with path.open("wb", buffering=0) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # ... which hides it behind an error of its own.
            context = error.__context__
            raise context if isinstance(context, OSError) else error from None


# Stem, suffix and writer of weight files, such as `model-00001-of-00002.safetensors`.
_WEIGHT_FORMATS = {
    "safetensors": ("model", "safetensors", write_safetensors),
    "torch": ("pytorch_model", "bin", write_torch),
}

# Files of a model's folder, which an export may replace.
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


def write_hf_folder(
    pretrained: Pretrained,
    directory: str | Path,
    *,
    max_shard_bytes: int,
    format: str,
    dtype: str | None,
) -> Path:
    """Write weights, configs and tokenizer beside `directory`, which they replace in the end.

    A model loaded with `dtype=None` and stored with None is bit for bit as in its file. Other
    arguments and errors as in `save`.
    """
    directory = Path(directory).expanduser()
    check_path_names(directory)
    _check_replaceable(directory)
    tensors = hf_tensors(pretrained, dtype)
    config = _hf_config(pretrained, tensors)
    with atomic_directory(directory) as temporary:
        _write_weights(temporary, tensors, max_shard_bytes, format)
        _write_json(temporary / "config.json", config)
        if pretrained.generation_config:
            _write_json(temporary / "generation_config.json", pretrained.generation_config)
        if pretrained.tokenizer is not None:
            pretrained.tokenizer.save_pretrained(temporary)
            path = temporary / "tokenizer_config.json"
            _write_json(path, portable_tokenizer_config(pretrained.tokenizer, read_json(path)))
    return directory


def _hf_config(pretrained: Pretrained, tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """Return the content of `config.json`."""
    config = pretrained.family.hf_config(pretrained.language_model.config, pretrained.hf_config)
    # The dtype that holds all tensors without rounding; transformers 4 calls it `torch_dtype`.
    dtype = jnp.result_type(*{tensor.dtype for tensor in tensors.values()}).name
    # Without a version, transformers 4.57 suspects large vocabularies of an error in Mistral's.
    version = config.get("transformers_version") or transformers.__version__
    return {**config, "dtype": dtype, "torch_dtype": dtype, "transformers_version": version}


def _check_replaceable(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory}: is a file, expected a folder. Name a new folder.")
    others = [
        child.name
        for child in sorted(directory.iterdir())
        if not any(fnmatchcase(child.name, pattern) for pattern in _MODEL_FILES)
    ]
    if others:
        raise UserError(
            f"{directory}: an export replaces the whole folder, and this one holds other files: "
            f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}. Name a new folder."
        )


def hf_tensors(pretrained: Pretrained, dtype: str | None) -> dict[str, LazyTensor]:
    """Return all tensors by their Hugging Face names; each is computed when it is read."""
    tensors = {}
    for rule in pretrained.family.tensor_rules(pretrained.language_model.config):
        arrays = [get_leaf(pretrained.params, path) for path in rule.paths]
        stored = np.dtype(dtype or jnp.result_type(*arrays))
        for layer, name in rule.tensor_names(pretrained.language_model.widths.layers):
            read = partial(_hf_tensor, rule, arrays, layer, name, stored)
            tensors[name] = LazyTensor(rule.shape, stored.name, read)
    return tensors


def _hf_tensor(
    rule: TensorRule,
    arrays: list[jax.Array | np.ndarray],
    layer: int | None,
    name: str,
    dtype: np.dtype,
) -> np.ndarray:
    # Layers leave the device one at a time.
    slices = [np.asarray(array if layer is None else array[layer]) for array in arrays]
    tensor = rule.to_hf_tensor(*slices)
    check_range(name, tensor, dtype)
    return tensor.astype(dtype, copy=False)


def _write_weights(
    folder: Path, tensors: dict[str, LazyTensor], max_shard_bytes: int, format: str
) -> None:
    stem, suffix, write = _WEIGHT_FORMATS[format]
    files = list(_split_by_size(tensors, max_shard_bytes))
    if len(files) == 1:
        write(folder / f"{stem}.{suffix}", tensors)
        return
    weight_map = {}
    for number, names in enumerate(files, start=1):
        file = f"{stem}-{number:05}-of-{len(files):05}.{suffix}"
        write(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.{suffix}.index.json", index)


def _split_by_size(tensors: dict[str, LazyTensor], max_shard_bytes: int) -> Iterator[list[str]]:
    """Yield the names of each weight file; a tensor above the limit is alone in its file."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.num_bytes > max_shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.num_bytes
    yield names


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
