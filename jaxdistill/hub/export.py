"""Export of models: Hugging Face folders and GGUF files."""

from pathlib import Path
from typing import Literal

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.hub.gguf_export import GGUF_DTYPES, write_gguf
from jaxdistill.hub.hf_export import write_hf_folder
from jaxdistill.hub.pretrained import Pretrained
from jaxdistill.hub.tensors import PARAM_DTYPES

ExportFormat = Literal["safetensors", "torch", "gguf"]


def check_export_dtype(format: ExportFormat, dtype: str | None) -> None:
    """Check that a format can store this dtype; None, the format's default, passes.

    Raises:
        UserError: It cannot.
    """
    known = GGUF_DTYPES if format == "gguf" else PARAM_DTYPES
    if dtype is not None and dtype not in known:
        other = "safetensors" if format == "gguf" else "gguf"
        hint = f" Format {other} has it." if dtype in (*GGUF_DTYPES, *PARAM_DTYPES) else ""
        raise UserError(
            f"dtype: {dtype!r} is not one of {', '.join(known)}, the dtypes of format {format}."
            f"{did_you_mean(dtype, known) or hint}"
        )


def save(
    pretrained: Pretrained,
    path: str | Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    format: ExportFormat = "safetensors",
    dtype: str | None = None,
) -> Path:
    """Write a model as a Hugging Face folder or a GGUF file, all of it or nothing.

    Tensors leave memory one at a time.

    Args:
        pretrained: The model.
        path: The folder, which may hold an older model but nothing else. For format gguf, a
            `.gguf` file or the folder that the file is written into.
        max_shard_bytes: Weights beyond this go into several files and an index of them.
        format: `safetensors`; `torch` for a `pytorch_model.bin` (PyTorch must be installed); or
            `gguf` for llama.cpp.
        dtype: Dtype of the stored weights. None stores each as it is in memory, or f16 in a GGUF
            file. GGUF files have f16, q8_0 or q4_1, see `write_gguf`.

    Returns:
        The folder or file.

    Raises:
        UserError: The disk is full, the folder holds other things, PyTorch is not installed, or
            the format cannot store this dtype or family.
    """
    check_export_dtype(format, dtype)
    if format == "gguf":
        return write_gguf(pretrained, path, dtype=dtype or GGUF_DTYPES[0])
    return write_hf_folder(
        pretrained, path, max_shard_bytes=max_shard_bytes, format=format, dtype=dtype
    )
