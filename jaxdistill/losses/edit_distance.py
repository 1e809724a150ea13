"""Edit distance of many pairs of byte strings, in one JAX program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Integer


def normalised_edit_distance(
    left: Integer[Array, "*R Y"],
    left_lengths: Int[Array, "*R"],
    right: Integer[Array, "*R Y"],
    right_lengths: Int[Array, "*R"],
) -> Float32[Array, "*R"]:
    """Return the Levenshtein distance divided by the longer length, between 0 and 1.

    Insertions, deletions and substitutions cost 1. Two empty strings have distance 0.

    Args:
        left: Bytes of one string each, with any padding.
        left_lengths: Number of bytes before the padding, at most Y.
        right: Bytes of the other string.
        right_lengths: Number of its bytes.
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
