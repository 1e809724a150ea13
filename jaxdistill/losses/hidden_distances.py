"""Distances of hidden states, in float32, with finite values and gradients at zero vectors."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_EPSILON = 1e-6
"""Smallest norm that is divided by."""


def cosine_distance(a: Float[Array, "*N D"], b: Float[Array, "*N D"]) -> Float32[Array, "*N"]:
    """1 - cos(a, b) over the last axis; 1 where one of the two is zero."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return 1 - jnp.sum(a * b, axis=-1) / (_norm(a) * _norm(b))


def mean_squared_difference(
    a: Float[Array, "*N D"], b: Float[Array, "*N D"]
) -> Float32[Array, "*N"]:
    """Mean of (a - b)² over the last axis."""
    return jnp.mean(jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)), axis=-1)


def normalized_squared_difference(
    a: Float[Array, "*N D"], b: Float[Array, "*N D"]
) -> Float32[Array, "*N"]:
    """|a - b|² / |b|² over the last axis."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.sum(jnp.square(a - b), axis=-1) / jnp.square(_norm(b))


def _norm(x: Float32[Array, "*N D"]) -> Float32[Array, "*N"]:
    # The square root of 0 has an infinite gradient.
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), _EPSILON**2))
