"""Sums and maxima by place, beside a product with the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.losses import bucket_log_probs, bucket_max_logits, forward_kl

PLACES = np.array([[1, -1, -1], [2, 1, -1], [0, -1, -1], [2, 2, 1], [1, -1, -1]])
SHARES = np.array([[0, 1, 0], [0, 1 / 3, 2 / 3], [1, 0, 0], [0, 1 / 7, 6 / 7], [0, 1, 0]])
LOG_PROBS = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (4, 5)))


def test_they_are_a_product_with_a_sparse_matrix():
    found = bucket_log_probs(LOG_PROBS, jnp.asarray(PLACES), num_buckets=3)
    np.testing.assert_allclose(found, np.log(np.exp(LOG_PROBS) @ SHARES), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-6)
    first = bucket_log_probs(LOG_PROBS, jnp.asarray(PLACES[:, :1]), num_buckets=3)
    whole = SHARES * 0
    whole[np.arange(5), PLACES[:, 0]] = 1
    np.testing.assert_allclose(first, np.log(np.exp(LOG_PROBS) @ whole), rtol=1e-5)


def test_a_place_without_words_is_unlikely_and_has_no_gradient():
    def divergence(log_probs):
        found = bucket_log_probs(log_probs, jnp.asarray(PLACES[:, :1]), num_buckets=4)
        target = jnp.log(jnp.tile(jnp.array([0.1, 0.4, 0.5 - 1e-6, 1e-6]), (4, 1)))
        return forward_kl(target, found).sum()

    value, gradient = jax.value_and_grad(divergence)(LOG_PROBS)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_largest_counts():
    logits = jnp.array([[3.0, 1.0, 2.0, -1.0]])
    found = bucket_max_logits(logits, jnp.array([0, 2, 2, -1]), num_buckets=4)
    np.testing.assert_array_equal(found, [[3.0, -np.inf, 2.0, -np.inf]])
