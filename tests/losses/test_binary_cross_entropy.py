"""Binary cross-entropy of span likelihoods: the formula in float64, and where its gradient is 0."""

import functools

import jax
import numpy as np
import pytest

from jaxdistill.losses.binary_cross_entropy import binary_cross_entropy


def formula(log_p, log_q, temperature):
    p, q = (np.exp(np.float64(log) / temperature - 1e-6) for log in (log_p, log_q))
    return -(p * np.log(q) + (1 - p) * np.log1p(-q))


@functools.partial(jax.jit, static_argnames="temperature")
def values_and_gradient(log_p, log_q, *, temperature):
    def total(log_q):
        values = binary_cross_entropy(log_p, log_q, temperature=temperature)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(log_q)
    return values, gradient


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_values_follow_the_formula(temperature):
    random = np.random.default_rng(0)
    log_p, log_q = -random.exponential(5, (2, 50)) - 0.1
    arguments = np.float32(log_p), np.float32(log_q)
    values, _ = values_and_gradient(*arguments, temperature=temperature)
    np.testing.assert_allclose(values, formula(log_p, log_q, temperature), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_the_gradient_is_0_at_equality_and_finite_everywhere(temperature):
    equal = [(log, log) for log in (-1e-5, -1e-4, -0.01, -1.0, -30.0)]
    ordered = [(-1.0, -5.0), (-5.0, -1.0)]
    extreme = [(p, q) for p in (0.0, -200.0) for q in (0.0, -200.0)]
    pairs = np.float32([*equal, *ordered, *extreme])
    padded = np.pad(pairs, ((0, 50 - len(pairs)), (0, 0)), mode="edge")  # one compiled program
    gradient = np.asarray(values_and_gradient(*padded.T, temperature=temperature)[1])
    np.testing.assert_allclose(gradient[:5], 0, rtol=0, atol=1e-5)
    assert gradient[5] < 0 < gradient[6]
    assert np.isfinite(gradient).all()
