"""Rotary position embeddings (RoPE): frequencies of each scaling method, tables, rotation."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdistill.models.config import Rope, RopeKind


class Rotation(NamedTuple):
    """Cosine and sine of the angle of every position and pair of channels, in float32."""

    cosine: Float[Array, "*kinds B T half"]
    sine: Float[Array, "*kinds B T half"]


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Return the rotation of each pair of channels from one position to the next, in radians.

    Has shape `[C / 2]`. Computed in float32 and in the order of operations of `transformers`, so
    that both agree at long range.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.float32(rope.base) ** exponents
    if rope.kind is RopeKind.LINEAR:
        return frequencies / np.float32(rope.factor)
    if rope.kind is RopeKind.LLAMA3:
        return _llama3_frequencies(rope, frequencies)
    if rope.kind is RopeKind.YARN:
        return _yarn_frequencies(rope, frequencies)
    return frequencies


def _llama3_frequencies(rope: Rope, frequencies: np.ndarray) -> np.ndarray:
    """Divide low frequencies by the factor, keep high ones, interpolate between (Llama 3.1)."""
    rotations = np.float32(rope.original_max_positions) * frequencies / np.float32(2 * math.pi)
    kept = np.clip(
        (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1
    ).astype(np.float32)
    return (1 - kept) * frequencies / np.float32(rope.factor) + kept * frequencies


def _yarn_frequencies(rope: Rope, frequencies: np.ndarray) -> np.ndarray:
    """Scale like llama3, but interpolate over channel indices.

    Reference: Peng et al., "YaRN", 2023, https://arxiv.org/abs/2309.00071.
    """

    def channel_index(rotations: float) -> float:
        """Return the pair of channels that rotates this often over the original context."""
        wavelength = rope.original_max_positions / (rotations * 2 * math.pi)
        return len(frequencies) * math.log(wavelength) / math.log(rope.base)

    low, high = channel_index(rope.high_freq_factor), channel_index(rope.low_freq_factor)
    if rope.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * len(frequencies) - 1)
    high = high + 0.001 if low == high else high
    channels = np.arange(len(frequencies), dtype=np.float32)
    kept = 1 - np.clip((channels - np.float32(low)) / np.float32(high - low), 0, 1)
    return frequencies / np.float32(rope.factor) * (1 - kept) + frequencies * kept


def rope_cos_sin(rope: Rope, head_dim: int, positions: Int[Array, "B T"]) -> Rotation:
    """Compute the rotation of every position, multiplied by `rope.attention_factor`."""
    frequencies = rope_frequencies(rope, head_dim)[None, None, :]
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return Rotation(
        jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor
    )


def apply_rope(x: Float[Array, "B T heads C"], rotation: Rotation) -> Float[Array, "B T heads C"]:
    """Rotate channel `c` with channel `c + C / 2` (the pairing of Hugging Face's files)."""
    first, second = jnp.split(x, 2, axis=-1)
    cosine, sine = rotation.cosine[:, :, None, :], rotation.sine[:, :, None, :]
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
