"""Reductions of token distributions to buckets, a space that two vocabularies share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jaxdistill.losses.divergences import finite_log


def bucket_log_probs(
    log_probs: Float32[Array, "R V"], buckets: Int[Array, "V N"], *, num_buckets: int
) -> Float32[Array, "R U"]:
    """Return the log-probability of each bucket: the sum over its tokens, in nats.

    A token of several subtokens is spread over their buckets (-1 after the last). Each subtoken
    gets half the share of the one before; shares add up to 1.
    """
    probs = jnp.exp(log_probs).T  # tokens first: XLA adds contiguous positions faster
    is_subtoken = buckets >= 0
    halves = jnp.where(is_subtoken, 0.5 ** jnp.arange(buckets.shape[1]), 0)
    shares = halves / jnp.maximum(halves.sum(axis=1, keepdims=True), 1)
    sums = sum(
        jax.ops.segment_sum(
            probs * share[:, None], jnp.maximum(bucket, 0), num_segments=num_buckets
        )
        for bucket, share in zip(buckets.T, shares.T, strict=True)
    )
    return finite_log(jnp.asarray(sums).T)


def bucket_max_logits(
    logits: Float32[Array, "R V"], buckets: Int[Array, " V"], *, num_buckets: int
) -> Float32[Array, "R U"]:
    """Return the largest logit of each bucket's tokens; -inf for an empty bucket.

    `buckets` has the bucket of each token; -1 for none.
    """
    segments = jnp.where(buckets >= 0, buckets, num_buckets)  # out of range: dropped
    return jax.ops.segment_max(logits.T, segments, num_segments=num_buckets).T
