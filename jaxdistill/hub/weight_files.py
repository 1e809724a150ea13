"""Files of weights, written one tensor at a time where the format allows it."""

import json
from pathlib import Path

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.tensors import SAFETENSORS_DTYPES, LazyTensor

_ALIGNMENT_BYTES = 8


def write_safetensors(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """Write what `safetensors.save_file` would, byte for byte, but hold one tensor at a time.

    The library wants all tensors of a file in memory at once. The format is the length of a
    header, the header (names, dtypes, shapes, places) and the tensors' bytes. As there, wide
    dtypes come first, so that every tensor is aligned.
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
            # Bytes, since not all that NumPy can view (bfloat16) can be written as it is.
            file.write(np.ascontiguousarray(tensors[name].read()).reshape(-1).view(np.uint8).data)


def write_torch(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """Write what `torch.load(path, weights_only=True)` reads.

    Raises:
        UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "format=torch: only PyTorch writes its own files, and it is not installed. "
            "Run `pip install torch`, or leave the format at safetensors, which PyTorch reads too."
        ) from None
    state = {}
    for name, tensor in tensors.items():
        # NumPy's bfloat16 is unknown to PyTorch, the bits are not.
        bits = np.array(tensor.read(), order="C").view(f"i{np.dtype(tensor.dtype).itemsize}")
        state[name] = torch.from_numpy(bits).view(getattr(torch, tensor.dtype))
    # Unbuffered, so that what the system says arrives inside of `torch.save` ...
    with path.open("wb", buffering=0) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # ... which hides it behind an error of its own.
            context = error.__context__
            raise context if isinstance(context, OSError) else error from None
