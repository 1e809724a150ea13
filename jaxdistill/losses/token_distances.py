"""Distances of tokens, the costs of transport: edit distance of bytes, cosine of embeddings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Integer

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


def normalised_edit_distance(
    left: Integer[Array, "*R Y"],
    left_lengths: Int[Array, "*R"],
    right: Integer[Array, "*R Y"],
    right_lengths: Int[Array, "*R"],
) -> Float32[Array, "*R"]:
    """Return the Levenshtein distance divided by the longer length, between 0 and 1.

    Insertions, deletions and substitutions cost 1. Two empty strings have distance 0. `left` and
    `right` hold the bytes of one string each, with any padding after `lengths` bytes.
    """
    num_bytes = left.shape[-1]
    positions = jax.lax.broadcasted_iota(
        jnp.int32, (*left.shape[:-1], num_bytes + 1), left.ndim - 1
    )

    def add_byte(
        carry: tuple[Array, Array], index: Int[Array, ""]
    ) -> tuple[tuple[Array, Array], None]:
        row, last_row = carry
        byte = jax.lax.dynamic_index_in_dim(left, index, axis=-1)
        substituted = row[..., :-1] + (byte != right)
        deleted = row[..., 1:] + 1
        first = row[..., :1] + 1
        row = jnp.concatenate([first, jnp.minimum(substituted, deleted)], axis=-1)
        # Insertions go from left to right at a cost of 1 each: a running minimum.
        row = jax.lax.cummin(row - positions, axis=left.ndim - 1) + positions
        is_last = (left_lengths == index + 1)[..., None]
        return (row, jnp.where(is_last, row, last_row)), None

    (_, last_row), _ = jax.lax.scan(add_byte, (positions, positions), jnp.arange(num_bytes))
    distances = jnp.take_along_axis(last_row, right_lengths[..., None], axis=-1)[..., 0]
    longer = jnp.maximum(jnp.maximum(left_lengths, right_lengths), 1)
    return distances / longer.astype(jnp.float32)
