"""Reader of GGUF files, which presents one as the Hugging Face folder of the same model.

Metadata become a `config.json`, and tensors get Hugging Face's names and layouts. Quantised tensors
are dequantised to float32 when they are read, one at a time.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_config import ROPE_FACTORS_NAME, gguf_to_hf_config
from jaxdistill.hub.gguf_special_tokens import special_token_ids
from jaxdistill.hub.gguf_split import gguf_parts
from jaxdistill.hub.gguf_tensors import gguf_tensor_names, tensor_layout, transform_tensor
from jaxdistill.hub.gguf_tokenizer import build_gguf_tokenizer
from jaxdistill.hub.source import Source
from jaxdistill.hub.tensors import LazyTensor

_DEQUANTIZED_ROWS = 4096
_FLOAT_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def read_gguf(path: Path) -> Source:
    """Open a model and its tokenizer in one file, or in all its parts; weights are read later.

    Raises:
        UserError: The file is damaged, a part is missing, or it holds what is not supported.
    """
    path, *others = gguf_parts(path)
    reader, metadata = _open_gguf(path)
    _check_split(path, metadata, 1 + len(others))
    tensors = {tensor.name: _lazy_tensor(path, tensor) for tensor in reader.tensors}
    for part in others:
        reader, _ = _open_gguf(part)
        tensors |= {tensor.name: _lazy_tensor(part, tensor) for tensor in reader.tensors}
    try:
        config = gguf_to_hf_config(metadata, tensors)
    except UserError as error:
        raise UserError(*(f"{path}: {line}" for line in error.lines)) from None
    source = Source(
        path=path,
        hf_config=config,
        generation_config=special_token_ids(metadata),
        tensors=tensors,
        load_tokenizer=lambda: build_gguf_tokenizer(path, metadata),
        gguf_tokenizer={
            name: value for name, value in metadata.items() if name.startswith("tokenizer.")
        },
    )
    try:
        return replace(
            source, tensors=_tensors_by_hf_name(metadata["general.architecture"], source)
        )
    except ValueError as error:
        raise UserError(f"{path}: shapes of tensors contradict the metadata: {error}") from None


def _open_gguf(path: Path) -> tuple[gguf.GGUFReader, dict[str, Any]]:
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: _field_value(field) for name, field in reader.fields.items()}
    # For a damaged file the library raises whatever its first wrong read leads to.
    except (ValueError, LookupError, OverflowError, UnicodeDecodeError) as error:
        size = path.stat().st_size
        raise UserError(
            f"{path}: not a complete GGUF file ({error}; it has {size:,} bytes). "
            "Was it cut short? Copy or download it again."
        ) from None
    return reader, metadata


def _check_split(path: Path, metadata: Mapping[str, Any], num_parts: int) -> None:
    """Check that the metadata are those of the first of as many parts as the file's name says."""
    count, number = metadata.get("split.count") or 1, metadata.get("split.no", 0)
    if (count, number) != (num_parts, 0):
        raise UserError(
            f"{path}: is part {number + 1} of {count} (`split.no`, `split.count`), which its name "
            "does not say. Name the parts as `llama-gguf-split` does: model-00001-of-00002.gguf."
        )
    if "general.architecture" not in metadata:
        raise UserError(f"{path}: not a complete GGUF file: it has no `general.architecture`.")


def _field_value(field: gguf.ReaderField) -> Any:
    value = field.contents()
    # 1e-5 is stored as a float32: its shortest decimal is the value in `config.json`.
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
    """Dequantise by chunks of rows, since the library needs several times the result's memory."""
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


def _tensors_by_hf_name(architecture: str, source: Source) -> dict[str, LazyTensor]:
    """Rename the tensors that the family's rules name; others are reported by the loader."""
    model = source.language_model
    hf_names = [
        name
        for rule in source.family.tensor_rules(model.config)
        for _, name in rule.tensor_names(model.widths.layers)
    ]
    tensors = dict(source.tensors)
    # The config holds these factors already.
    tensors.pop(ROPE_FACTORS_NAME, None)
    renamed = {}
    for hf_name, name in gguf_tensor_names(architecture, model.widths.layers, hf_names).items():
        if name in tensors:
            tensor, layout = tensors.pop(name), tensor_layout(architecture, hf_name, model)
            renamed[hf_name] = transform_tensor(tensor, layout.to_hf) if layout else tensor
    return renamed | tensors
