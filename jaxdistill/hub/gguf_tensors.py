"""Names and layouts of tensors in GGUF files, from and to Hugging Face's."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import gguf
import numpy as np

from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.models import DecoderModel

Transform = Callable[[np.ndarray], np.ndarray]


class Layout(NamedTuple):
    """Conversion of a tensor between Hugging Face's layout and llama.cpp's, in both directions."""

    to_gguf: Transform
    to_hf: Transform


def gguf_tensor_names(
    architecture: str, num_layers: int, hf_names: Iterable[str]
) -> dict[str, str]:
    """Return llama.cpp's names of tensors by Hugging Face's."""
    name_map = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], num_layers)
    parts = {name: name.rsplit(".", 1) for name in hf_names}
    return {name: f"{name_map.get_name(stem)}.{suffix}" for name, (stem, suffix) in parts.items()}


def tensor_layout(architecture: str, hf_name: str, model: DecoderModel) -> Layout | None:
    """Return how llama.cpp lays a tensor out; None if as Hugging Face does."""
    if architecture == "llama" and ".q_proj." in hf_name:
        return _rope_layout(model.config.num_heads)
    if architecture == "llama" and ".k_proj." in hf_name:
        return _rope_layout(model.config.num_kv_heads)
    if architecture == "gemma3" and hf_name.endswith("norm.weight"):
        # Hidden states are multiplied by what the file stores, and by 1 + weight in the model.
        return Layout(lambda tensor: tensor + 1, lambda tensor: tensor - 1)
    if (
        architecture == "gpt2"
        and ".h." in hf_name
        and hf_name.endswith((".c_attn.weight", "c_proj.weight", ".c_fc.weight"))
    ):
        return Layout(np.transpose, np.transpose)
    return None


def transform_tensor(tensor: LazyTensor, transform: Transform) -> LazyTensor:
    """Return a lazy tensor that applies `transform` when it is read."""
    # The new shape is computed on an array without memory of its own.
    shape = transform(np.broadcast_to(np.float32(0), tensor.shape)).shape
    return LazyTensor(shape, tensor.dtype, lambda: transform(tensor.read()))


def _rope_layout(num_heads: int) -> Layout:
    """llama.cpp rotates neighbouring channels, Hugging Face the two halves of a head."""

    def swap_pair_axes(tensor: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        pairs = tensor.reshape(num_heads, *axes, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return Layout(partial(swap_pair_axes, axes=(2, -1)), partial(swap_pair_axes, axes=(-1, 2)))
