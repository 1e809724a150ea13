"""How unlike two words are by the directions of their embeddings, for many pairs together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_MIN_SQUARED_NORM = 1e-12
"""What a squared length is divided by at least: a vector of 0 has no direction."""


def cosine_distance(
    left: Float[Array, "R N D"], right: Float[Array, "R M D"]
) -> Float32[Array, "R N M"]:
    """1 − cos of the angle between each of `left` and each of `right`: between 0 and 1.

    Where the angle is a right one or wider, and where a vector is 0, they have nothing in common.
    """
    left, right = map(_normalize, (left, right))
    cosine = jnp.einsum("rnd,rmd->rnm", left, right, precision=jax.lax.Precision.HIGHEST)
    return 1 - jnp.clip(cosine, 0, 1)


def _normalize(vectors: Float[Array, "R N D"]) -> Float32[Array, "R N D"]:
    vectors = vectors.astype(jnp.float32)
    squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, _MIN_SQUARED_NORM))
