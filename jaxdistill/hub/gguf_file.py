"""GGUF files, read as the Hugging Face folder that they were made from.

Metadata become a `config.json`, and tensors get their Hugging Face names and layouts back, so
that everything after this file is the same for both. Tensors are dequantised when read, one at a
time, to float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_config import gguf_to_hf_config
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.hub.tokenizer import build_gguf_tokenizer

_DEQUANTIZED_ROWS = 4096
_FLOAT_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}

Transform = Callable[[np.ndarray], np.ndarray]


def read_gguf(path: Path) -> Source:
    """A model and its tokenizer in one file; weights are not read yet.

    Raises:
        UserError: The file is damaged, or holds what we cannot honour.
    """
    reader, metadata = _open_gguf(path)
    tensors = {tensor.name: _lazy_tensor(path, tensor) for tensor in reader.tensors}
    try:
        config = gguf_to_hf_config(metadata, tensors)
    except UserError as error:
        raise UserError(*(f"{path}: {line}" for line in error.lines)) from None
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    source = Source(
        path=path,
        hf_config=config,
        generation_config={name: config[name] for name in ids if name in config},
        tensors=tensors,
        load_tokenizer=lambda: build_gguf_tokenizer(path, metadata),
    )
    try:
        return replace(source, tensors=_tensors_by_hf_name(source))
    except ValueError as error:
        raise UserError(
            f"{path}: tensors do not have the shapes of its metadata: {error}"
        ) from None


def _open_gguf(path: Path) -> tuple[gguf.GGUFReader, dict[str, Any]]:
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: _field_value(field) for name, field in reader.fields.items()}
        metadata["general.architecture"]
    # For a bad file the library raises whatever its first wrong read leads to.
    except (ValueError, LookupError, OverflowError, UnicodeDecodeError) as error:
        size = path.stat().st_size
        raise UserError(
            f"{path}: not a whole GGUF file ({error}; it has {size:,} bytes). "
            "Was it cut short? Copy or download it again."
        ) from None
    return reader, metadata


def _field_value(field: gguf.ReaderField) -> Any:
    value = field.contents()
    # 1e-5 was written as a float32: its shortest spelling is what `config.json` said.
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _lazy_tensor(path: Path, tensor: gguf.ReaderTensor) -> LazyTensor:
    kind = tensor.tensor_type.name
    shape = tuple(int(size) for size in reversed(tensor.shape))
    if kind in _FLOAT_DTYPES:
        dtype = np.dtype(_FLOAT_DTYPES[kind])
        return LazyTensor(
            shape, dtype.name, lambda: np.array(tensor.data.view(dtype).reshape(shape))
        )
    return LazyTensor(shape, "float32", lambda: _dequantize(path, tensor, shape))


def _dequantize(path: Path, tensor: gguf.ReaderTensor, shape: tuple[int, ...]) -> np.ndarray:
    """A few rows at a time, since the library needs several times the memory of its result."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    result = np.empty((len(rows), shape[-1]), np.float32)
    try:
        for start in range(0, len(rows), _DEQUANTIZED_ROWS):
            chunk = slice(start, start + _DEQUANTIZED_ROWS)
            result[chunk] = gguf.dequantize(rows[chunk], tensor.tensor_type)
    except NotImplementedError:
        raise UserError(
            f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}, which the gguf "
            "library cannot read. Use a file with another quantisation, such as Q8_0 or Q4_K_M."
        ) from None
    return result.reshape(shape)


def _tensors_by_hf_name(source: Source) -> dict[str, LazyTensor]:
    """The tensors by the names that the family's table has for them.

    What no name of the table asks for keeps its own, and is reported when the model is loaded.
    """
    architecture = source.hf_config["model_type"].removesuffix("_text")
    name_map = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], source.config.num_layers
    )
    left = dict(source.tensors)
    # The factors of Llama 3's frequencies are in the config by now.
    left.pop("rope_freqs.weight", None)
    found = {}
    for rule in source.family.tensor_rules(source.config):
        for _, name in rule.tensor_names(source.config.num_layers):
            stem, suffix = name.rsplit(".", 1)
            theirs = f"{name_map.get_name(stem)}.{suffix}"
            if theirs in left:
                found[name] = _apply_transform(
                    left.pop(theirs), _inverse_transform(architecture, name, source.hf_config)
                )
    return found | left


def _apply_transform(tensor: LazyTensor, transform: Transform | None) -> LazyTensor:
    if transform is None:
        return tensor
    # What the layout makes of the shape is asked of an array without memory of its own.
    shape = transform(np.broadcast_to(np.float32(0), tensor.shape)).shape
    return LazyTensor(shape, tensor.dtype, lambda: transform(tensor.read()))


def _inverse_transform(architecture: str, name: str, config: Mapping[str, Any]) -> Transform | None:
    """How llama.cpp's converter changed a tensor, undone."""
    if architecture == "llama" and ".q_proj." in name:
        return partial(_unpermute_rope, num_heads=config["num_attention_heads"])
    if architecture == "llama" and ".k_proj." in name:
        return partial(_unpermute_rope, num_heads=config["num_key_value_heads"])
    if architecture == "gemma3" and name.endswith("norm.weight"):
        # Stored is what the hidden state is multiplied by; the model multiplies by 1 + weight.
        return lambda tensor: tensor - 1
    if (
        architecture == "gpt2"
        and ".h." in name
        and name.endswith((".c_attn.weight", "c_proj.weight", ".c_fc.weight"))
    ):
        return np.transpose
    return None


def _unpermute_rope(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring channels, Hugging Face the two halves of a head."""
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
