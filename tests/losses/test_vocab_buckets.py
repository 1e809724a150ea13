"""Reductions to buckets, compared with a product with the dense matrix of shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from jaxdistill.losses import bucket_log_probs, bucket_max_logits, forward_kl

BUCKETS = np.array([[1, -1, -1], [2, 1, -1], [0, -1, -1], [2, 2, 1], [1, -1, -1]])
SHARES = np.array([[0, 1, 0], [0, 1 / 3, 2 / 3], [1, 0, 0], [0, 1 / 7, 6 / 7], [0, 1, 0]])
LOG_PROBS = log_softmax(np.float32(np.random.default_rng(0).normal(size=(4, 5))), axis=-1)


def test_bucket_probabilities_are_a_product_with_the_shares():
    reduce = jax.jit(functools.partial(bucket_log_probs, num_buckets=3))
    values = np.asarray(reduce(LOG_PROBS, BUCKETS))
    np.testing.assert_allclose(values, np.log(np.exp(LOG_PROBS) @ SHARES), rtol=1e-5)
    np.testing.assert_allclose(np.exp(values).sum(-1), 1, rtol=1e-6)
    first_only = reduce(LOG_PROBS, BUCKETS[:, :1])
    shares = SHARES * 0
    shares[np.arange(5), BUCKETS[:, 0]] = 1
    np.testing.assert_allclose(first_only, np.log(np.exp(LOG_PROBS) @ shares), rtol=1e-5)


def test_an_empty_bucket_has_a_finite_value_and_no_gradient():
    def divergence(log_probs):
        values = bucket_log_probs(log_probs, jnp.asarray(BUCKETS[:, :1]), num_buckets=4)
        target = jnp.log(jnp.tile(jnp.array([0.1, 0.4, 0.5 - 1e-6, 1e-6]), (4, 1)))
        return forward_kl(target, values).sum()

    value, gradient = jax.jit(jax.value_and_grad(divergence))(LOG_PROBS)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_largest_logit_of_a_bucket_counts():
    logits = jnp.array([[3.0, 1.0, 2.0, -1.0]])
    values = bucket_max_logits(logits, jnp.array([0, 2, 2, -1]), num_buckets=4)
    np.testing.assert_array_equal(values, [[3.0, -np.inf, 2.0, -np.inf]])
