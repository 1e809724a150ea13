"""Writers of weight files: safetensors, one tensor at a time, and PyTorch's format."""

import json
from pathlib import Path

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.tensors import SAFETENSORS_DTYPES, LazyTensor

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
