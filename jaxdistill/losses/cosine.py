"""Cosine distance between all pairs of two sets of embeddings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_MIN_SQUARED_NORM = 1e-12
"""Lower bound of a squared norm in the division: the zero vector has no direction."""


def cosine_distance(
    left: Float[Array, "R N D"], right: Float[Array, "R M D"]
) -> Float32[Array, "R N M"]:
    """1 − max(0, cos) of the angle between each vector of `left` and each of `right`.

    Values lie between 0 and 1; the distance of a zero vector is 1.
    """
    left, right = map(_normalize, (left, right))
    cosine = jnp.einsum("rnd,rmd->rnm", left, right, precision=jax.lax.Precision.HIGHEST)
    return 1 - jnp.clip(cosine, 0, 1)


def _normalize(vectors: Float[Array, "R N D"]) -> Float32[Array, "R N D"]:
    vectors = vectors.astype(jnp.float32)
    squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, _MIN_SQUARED_NORM))
