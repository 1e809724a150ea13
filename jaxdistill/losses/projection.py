"""Distributions over the words of one vocabulary, in a space that it shares with another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jaxdistill.losses.logs import finite_log


def log_sums(
    log_probs: Float32[Array, "R V"], places: Int[Array, "V N"], *, num_places: int
) -> Float32[Array, "R K"]:
    """The logarithm of how likely each place of a shared space is, by the words that lie there.

    A word of several pieces lies at several places: of two a third of it at the second, of more
    half as much at each as at the one before.

    Args:
        log_probs: Of the words, in nats.
        places: Of the pieces of each word, in their order; -1 behind the last.
        num_places: How many places there are.
    """
    probs = jnp.exp(log_probs).T  # words first: rows beside each other are added faster
    is_piece = places >= 0
    halves = jnp.where(is_piece, 0.5 ** jnp.arange(places.shape[1]), 0)
    shares = halves / jnp.maximum(halves.sum(axis=1, keepdims=True), 1)
    sums = sum(
        jax.ops.segment_sum(probs * share[:, None], jnp.maximum(place, 0), num_segments=num_places)
        for place, share in zip(places.T, shares.T, strict=True)
    )
    return finite_log(jnp.asarray(sums).T)


def largest_by_place(
    logits: Float32[Array, "R V"], places: Int[Array, " V"], *, num_places: int
) -> Float32[Array, "R K"]:
    """The largest logit of the words that lie at each place; -inf where there is none.

    Args:
        logits: Of the words.
        places: Of each word; -1 for none.
        num_places: How many places there are.
    """
    outside = jnp.where(places >= 0, places, num_places)  # is dropped
    return jax.ops.segment_max(logits.T, outside, num_segments=num_places).T
