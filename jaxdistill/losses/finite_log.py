"""Logarithm with a finite value and gradient at 0."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

_TINY = float(jnp.finfo(jnp.float32).tiny)
"""Smallest normal float32: a smaller probability adds nothing to a sum."""


def finite_log(probs: Float32[Array, "*R V"]) -> Float32[Array, "*R V"]:
    """log(max(probs, tiny)): finite value and gradient at 0."""
    return jnp.log(jnp.maximum(probs, _TINY))
