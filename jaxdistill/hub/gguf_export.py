"""Writer of GGUF files, for llama.cpp and what is built on it."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file
from jaxdistill.hub.gguf_config import (
    ARCHITECTURES,
    ROPE_FACTORS_NAME,
    gguf_to_hf_config,
    hf_config_to_gguf,
    rope_factors,
)
from jaxdistill.hub.gguf_special_tokens import end_of_generation_ids
from jaxdistill.hub.gguf_tensors import gguf_tensor_names, tensor_layout, transform_tensor
from jaxdistill.hub.gguf_tokenizer_export import tokenizer_to_gguf
from jaxdistill.hub.hf_export import hf_tensors
from jaxdistill.hub.pretrained import Pretrained
from jaxdistill.hub.tensors import LazyTensor, check_range
from jaxdistill.models import FAMILIES, DecoderModel

GGUF_DTYPES = ("f16", "q8_0", "q4_1")
"""Storage types of matrices in exported GGUF files; the first is the default."""

# llama.cpp's converter leaves this matrix in float32.
_UNQUANTIZED = "position_embd.weight"


def write_gguf(pretrained: Pretrained, path: str | Path, *, dtype: str = "f16") -> Path:
    """Write a model and its tokenizer as a GGUF file, all of it or nothing.

    Vectors are stored in float32 and matrices in `dtype`. As in llama.cpp, a matrix whose rows are
    not whole blocks of 32 is stored in f16. In a q4_1 file the output projection (the embedding, if
    tied) is q8_0; llama.cpp takes q6_K where rows are multiples of 256, and q8_0 elsewhere.

    `path` is a `.gguf` file, or the folder in which `model-DTYPE.gguf` is written.

    Raises:
        UserError: The family or a setting of the model cannot be expressed, the tokenizer has no
            counterpart in llama.cpp, or the disk is full.
    """
    target = Path(path).expanduser()
    target = target if target.suffix == ".gguf" else target / f"model-{dtype}.gguf"
    if target.is_dir():
        raise UserError(f"{target}: is a folder, expected a .gguf file. Name another file.")
    architecture, tensors, metadata = _describe(pretrained, dtype)
    kinds = {name: _storage_type(name, tensors, dtype) for name in tensors}
    with atomic_file(target) as temporary:
        _write_file(temporary, architecture, metadata, tensors, kinds)
    return target


def check_gguf(pretrained: Pretrained) -> None:
    """Check that `write_gguf` can write this model; its parameters may be shapes only.

    Raises:
        UserError: The family, a setting or the tokenizer cannot be expressed.
    """
    _describe(pretrained, GGUF_DTYPES[0])


def _describe(
    pretrained: Pretrained, dtype: str
) -> tuple[str, dict[str, LazyTensor], dict[str, Any]]:
    """Return architecture, tensors and metadata of the file."""
    architecture = _architecture_name(pretrained)
    tensors = _gguf_tensors(pretrained, architecture)
    metadata = _metadata(pretrained, architecture, dtype)
    _check_expressible(architecture, pretrained.language_model, metadata, tensors)
    return architecture, tensors, metadata


def _architecture_name(pretrained: Pretrained) -> str:
    default = next(iter(pretrained.family.model_types))
    model_type = pretrained.hf_config.get("model_type", default)
    names = {key: name for name, kind in ARCHITECTURES.items() for key in kind.model_types}
    if model_type not in names:
        raise UserError(
            f"format=gguf: family `{model_type}` cannot be written, expected one of "
            f"{', '.join(names)}. Use `--format safetensors`."
        )
    return names[model_type]


def _gguf_tensors(pretrained: Pretrained, architecture: str) -> dict[str, LazyTensor]:
    """Return all tensors by llama.cpp's names and in its layout, in float32."""
    model = pretrained.language_model
    tensors = hf_tensors(pretrained, "float32")
    result = {}
    for hf_name, name in gguf_tensor_names(architecture, model.widths.layers, tensors).items():
        tensor, layout = tensors[hf_name], tensor_layout(architecture, hf_name, model)
        result[name] = transform_tensor(tensor, layout.to_gguf) if layout else tensor
    if (factors := rope_factors(model)) is not None:
        result[ROPE_FACTORS_NAME] = LazyTensor(factors.shape, "float32", lambda: factors)
    return result


def _metadata(pretrained: Pretrained, architecture: str, dtype: str) -> dict[str, Any]:
    model = pretrained.language_model
    hf_config = pretrained.family.hf_config(model.config, pretrained.hf_config)
    return {
        "general.type": "model",
        "general.file_type": int(gguf.LlamaFileType[f"MOSTLY_{dtype.upper()}"]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **hf_config_to_gguf(architecture, model, hf_config),
        **_tokenizer_metadata(pretrained),
    }


def _tokenizer_metadata(pretrained: Pretrained) -> dict[str, Any]:
    """Return the tokenizer's metadata, with the chat template and the end of a turn."""
    tokenizer = pretrained.tokenizer
    if tokenizer is None:
        return dict(pretrained.gguf_tokenizer) or {"tokenizer.ggml.model": "none"}
    metadata = dict(pretrained.gguf_tokenizer) or tokenizer_to_gguf(
        tokenizer, pretrained.language_model.vocab_size
    )
    if isinstance(tokenizer.chat_template, str):  # perhaps that of a teacher
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    # llama.cpp finds the ends of known models by their text, and others only by a key.
    known = end_of_generation_ids(metadata)
    if others := [token for token in pretrained.eos_ids if token not in known]:
        metadata["tokenizer.ggml.eot_token_id"] = others[-1]
    return metadata


def _check_expressible(
    architecture: str,
    model: DecoderModel,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
) -> None:
    """Check that the file describes this model: its metadata, read back, give its config.

    Raises:
        UserError: Names the first setting that a GGUF file of this architecture cannot express.
    """
    hf_config = gguf_to_hf_config({**metadata, "general.architecture": architecture}, tensors)
    read = FAMILIES[hf_config["model_type"]].decoder_config(hf_config)
    # Only used to initialise a fresh model.
    read = replace(model, config=replace(read, initializer_range=model.config.initializer_range))
    if read != model:
        values, others = _settings(model), _settings(read)
        name = next(name for name in values if values[name] != others[name])
        raise UserError(
            f"format=gguf: architecture `{architecture}` of llama.cpp cannot express {name}="
            f"{values[name]}; it would be read as {others[name]}. Use `--format safetensors`."
        )


def _settings(model: DecoderModel) -> dict[str, Any]:
    config = model.config
    layers = {f"layers[{layer}]": kind for layer, kind in enumerate(config.layers)}
    return {**layers, **{field.name: getattr(config, field.name) for field in fields(config)}}


def _storage_type(name: str, tensors: Mapping[str, LazyTensor], dtype: str) -> GGMLQuantizationType:
    shape = tensors[name].shape
    if len(shape) == 1 or name == _UNQUANTIZED:
        return GGMLQuantizationType.F32
    is_output = name == ("output.weight" if "output.weight" in tensors else "token_embd.weight")
    kind = GGMLQuantizationType["Q8_0" if is_output and dtype == "q4_1" else dtype.upper()]
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block_size == 0 else GGMLQuantizationType.F16


def _write_file(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
    kinds: Mapping[str, GGMLQuantizationType],
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value != []:  # the format has no empty arrays
            writer.add_key_value(key, value, _value_type(value))
    for name, tensor in tensors.items():
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kinds[name]]
        num_bytes = math.prod(tensor.shape) // block_size * block_bytes
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(name, tensor.shape, dtype, num_bytes, raw_dtype=kinds[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
        for name, tensor in tensors.items():
            array = np.ascontiguousarray(tensor.read())
            if kinds[name] is GGMLQuantizationType.F16:
                check_range(name, array, np.dtype(np.float16))
            data = gguf.quantize(array, kinds[name])
            # Not `write_tensor_data`: NumPy's `tofile` hides that the disk is full.
            file.write(data.data)
            writer.write_padding(file, data.nbytes)
    finally:
        writer.close()


def _value_type(value: Any) -> GGUFValueType:
    # llama.cpp expects all single integers to be unsigned.
    if isinstance(value, int) and not isinstance(value, bool):
        return GGUFValueType.UINT32
    return GGUFValueType.get_type(value)
