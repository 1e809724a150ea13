"""Rotary position embeddings: the frequencies of each kind, the tables, the rotation."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdistill.models.config import Rope, RopeKind


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians by which each pair of channels turns from one place to the next, `[C / 2]`.

    Computed in float32 and in the order of `transformers`, so that both agree at long range.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / np.float32(rope.base) ** exponents
    if rope.kind is RopeKind.LINEAR:
        return plain / np.float32(rope.factor)
    if rope.kind is RopeKind.LLAMA3:
        return _llama3_frequencies(rope, plain)
    if rope.kind is RopeKind.YARN:
        return _yarn_frequencies(rope, plain)
    return plain


def _llama3_frequencies(rope: Rope, base_frequencies: np.ndarray) -> np.ndarray:
    """Stretch slow frequencies, keep fast ones, go smoothly between (Llama 3.1, 2024)."""
    rotations = np.float32(rope.original_max_positions) * base_frequencies / np.float32(2 * math.pi)
    kept = np.clip(
        (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1
    ).astype(np.float32)
    return (1 - kept) * base_frequencies / np.float32(rope.factor) + kept * base_frequencies


def _yarn_frequencies(rope: Rope, base_frequencies: np.ndarray) -> np.ndarray:
    """As llama3, but smooth in the channel's number: Peng et al., 2023, arXiv:2309.00071."""

    def channel(rotations: float) -> float:
        """The channel pair that turns this many times over the original context."""
        wavelength = rope.original_max_positions / (rotations * 2 * math.pi)
        return len(base_frequencies) * math.log(wavelength) / math.log(rope.base)

    low, high = channel(rope.high_freq_factor), channel(rope.low_freq_factor)
    if rope.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * len(base_frequencies) - 1)
    high = high + 0.001 if low == high else high
    ramp = (np.arange(len(base_frequencies), dtype=np.float32) - np.float32(low)) / np.float32(
        high - low
    )
    kept = 1 - np.clip(ramp, 0, 1)
    return base_frequencies / np.float32(rope.factor) * (1 - kept) + base_frequencies * kept


def rope_cos_sin(
    rope: Rope, head_dim: int, positions: Int[Array, "B T"]
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosine and sine of the angle of every place and pair of channels, in float32."""
    angles = (
        positions[..., None].astype(jnp.float32) * rope_frequencies(rope, head_dim)[None, None, :]
    )
    return jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor


def apply_rope(
    x: Float[Array, "B T heads C"], cosine: Float[Array, "B T half"], sine: Float[Array, "B T half"]
) -> Float[Array, "B T heads C"]:
    """Turn channel `c` against channel `c + C / 2` (the pairing of Hugging Face's files)."""
    first, second = jnp.split(x, 2, axis=-1)
    cosine, sine = cosine[:, :, None, :], sine[:, :, None, :]
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
