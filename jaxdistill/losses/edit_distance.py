"""How many letters must be changed to make one word of another, for many pairs together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Integer


def normalised_edit_distance(
    left: Integer[Array, "*R L"],
    left_lengths: Int[Array, "*R"],
    right: Integer[Array, "*R L"],
    right_lengths: Int[Array, "*R"],
) -> Float32[Array, "*R"]:
    """The edit distance of two words, divided by the longer one's length: between 0 and 1.

    Insertions, deletions and replacements cost the same (Levenshtein); two words of no letters
    are equal.

    Args:
        left: The letters of one word, with anything behind its end.
        left_lengths: How many letters it has, at most L.
        right: The letters of the other.
        right_lengths: How many it has.
    """
    length = left.shape[-1]
    places = jax.lax.broadcasted_iota(jnp.int32, (*left.shape[:-1], length + 1), left.ndim - 1)

    def extend(carry: tuple[Array, Array], at: Int[Array, ""]) -> tuple[tuple[Array, Array], None]:
        row, found = carry
        letter = jax.lax.dynamic_index_in_dim(left, at, axis=-1)
        replaced = row[..., :-1] + (letter != right)
        deleted = row[..., 1:] + 1
        first = row[..., :1] + 1
        best = jnp.concatenate([first, jnp.minimum(replaced, deleted)], axis=-1)
        # Insertions lead from left to right, each at the cost of one: a running minimum.
        best = jax.lax.cummin(best - places, axis=left.ndim - 1) + places
        is_last = (left_lengths == at + 1)[..., None]
        return (best, jnp.where(is_last, best, found)), None

    (_, found), _ = jax.lax.scan(extend, (places, places), jnp.arange(length))
    found = jnp.take_along_axis(found, right_lengths[..., None], axis=-1)[..., 0]
    return found / jnp.maximum(jnp.maximum(left_lengths, right_lengths), 1).astype(jnp.float32)
