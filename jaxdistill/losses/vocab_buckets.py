"""Distributions over the words of one vocabulary, in a space that it shares with another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jaxdistill.losses.finite_log import finite_log


def bucket_log_probs(
    log_probs: Float32[Array, "R V"], buckets: Int[Array, "V N"], *, num_buckets: int
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
    is_piece = buckets >= 0
    halves = jnp.where(is_piece, 0.5 ** jnp.arange(buckets.shape[1]), 0)
    shares = halves / jnp.maximum(halves.sum(axis=1, keepdims=True), 1)
    sums = sum(
        jax.ops.segment_sum(probs * share[:, None], jnp.maximum(place, 0), num_segments=num_buckets)
        for place, share in zip(buckets.T, shares.T, strict=True)
    )
    return finite_log(jnp.asarray(sums).T)


def bucket_max_logits(
    logits: Float32[Array, "R V"], buckets: Int[Array, " V"], *, num_buckets: int
) -> Float32[Array, "R K"]:
    """The largest logit of the words that lie at each place; -inf where there is none.

    Args:
        logits: Of the words.
        places: Of each word; -1 for none.
        num_places: How many places there are.
    """
    outside = jnp.where(buckets >= 0, buckets, num_buckets)  # is dropped
    return jax.ops.segment_max(logits.T, outside, num_segments=num_buckets).T
