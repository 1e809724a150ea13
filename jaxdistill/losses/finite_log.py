"""Logarithms of what may be nothing."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

_TINY = float(jnp.finfo(jnp.float32).tiny)
"""Below it float32 knows no logarithm worth having, and a word weighs nothing in a sum."""


def finite_log(probs: Float32[Array, "*R V"]) -> Float32[Array, "*R V"]:
    """Of 0 that of the least normal number, so that neither it nor its gradient is infinite."""
    return jnp.log(jnp.maximum(probs, _TINY))
