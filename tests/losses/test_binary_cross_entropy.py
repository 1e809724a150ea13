"""Binary cross-entropy of span likelihoods: the formula in float64, and where its gradient is 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.losses.binary_cross_entropy import binary_cross_entropy


def formula(log_p, log_q, temperature):
    p, q = (np.exp(np.float64(log) / temperature - 1e-6) for log in (log_p, log_q))
    return -(p * np.log(q) + (1 - p) * np.log1p(-q))


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_values_follow_the_formula(temperature):
    random = np.random.default_rng(0)
    log_p, log_q = -random.exponential(5, (2, 50)) - 0.1
    values = binary_cross_entropy(jnp.float32(log_p), jnp.float32(log_q), temperature=temperature)
    np.testing.assert_allclose(values, formula(log_p, log_q, temperature), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_the_gradient_is_0_at_equality_and_finite_everywhere(temperature):
    def gradient(log_p, log_q):
        def loss(q):
            return binary_cross_entropy(jnp.float32(log_p), q, temperature=temperature)

        return float(jax.grad(loss)(jnp.float32(log_q)))

    for log_likelihood in (-1e-5, -1e-4, -0.01, -1.0, -30.0):
        assert gradient(log_likelihood, log_likelihood) == pytest.approx(0, abs=1e-5)
    assert gradient(-1.0, -5.0) < 0 < gradient(-5.0, -1.0)
    assert all(np.isfinite(gradient(p, q)) for p in (0.0, -200.0) for q in (0.0, -200.0))
