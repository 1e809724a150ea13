"""Likelihoods of stretches against their formula in float64, and where their gradient is 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.losses.binary_cross_entropy import binary_cross_entropy


def dense(log_p, log_q, temperature):
    p, q = (np.exp(np.float64(one) / temperature - 1e-6) for one in (log_p, log_q))
    return -(p * np.log(q) + (1 - p) * np.log1p(-q))


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_the_formula(temperature):
    random = np.random.default_rng(0)
    log_p, log_q = -random.exponential(5, (2, 50)) - 0.1
    found = binary_cross_entropy(jnp.float32(log_p), jnp.float32(log_q), temperature=temperature)
    np.testing.assert_allclose(found, dense(log_p, log_q, temperature), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_the_gradient_is_0_where_both_agree_and_finite_everywhere(temperature):
    def slope(log_p, log_q):
        def loss(q):
            return binary_cross_entropy(jnp.float32(log_p), q, temperature=temperature)

        return float(jax.grad(loss)(jnp.float32(log_q)))

    for both in (-1e-5, -1e-4, -0.01, -1.0, -30.0):
        assert slope(both, both) == pytest.approx(0, abs=1e-5)
    assert slope(-1.0, -5.0) < 0 < slope(-5.0, -1.0)
    assert all(np.isfinite(slope(p, q)) for p in (0.0, -200.0) for q in (0.0, -200.0))
