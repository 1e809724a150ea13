"""Sorted differences, compared with NumPy, a linear programme and values by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from jaxdistill.losses.sorted_difference import (
    _stable_sort_numpy,
    _stable_sort_xla,
    _top_and_rest_numpy,
    _top_and_rest_xla,
    sorted_difference,
    sorted_difference_adaptive,
    sorted_difference_top_k,
)


def formula(p, q):
    """Return Σ |p₍ᵢ₎ − q₍ᵢ₎| in float64."""
    size = max(p.shape[-1], q.shape[-1])
    p, q = (
        np.pad(-np.sort(-probs.astype(np.float64)), ((0, 0), (0, size - probs.shape[-1])))
        for probs in (p, q)
    )
    return np.abs(p - q).sum(axis=-1)


SIZES = st.integers(1, 12)


def distribution_pairs():
    """Draw distributions over two vocabularies, with ties and tokens of probability 0."""
    weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.5, 1e-6])

    def distributions(size):
        rows = arrays(np.float32, (2, size), elements=weights)
        return rows.map(lambda x: x / np.maximum(x.sum(axis=-1, keepdims=True), 1e-6))

    return st.tuples(SIZES.flatmap(distributions), SIZES.flatmap(distributions))


@pytest.mark.parametrize(
    ("p", "q", "value"),
    [
        ([0.7, 0.2, 0.1], [0.1, 0.7, 0.2], 0),
        ([1, 0, 0, 0], [0.25] * 4, 1.5),
        ([0.6, 0.4], [0.5, 0.3, 0.2], 0.4),
        ([1], [1, 0, 0], 0),
    ],
)
def test_values_by_hand(p, q, value):
    p, q = jnp.array([p], jnp.float32), jnp.array([q], jnp.float32)
    np.testing.assert_allclose(sorted_difference(p, q), [value], atol=1e-7)
    np.testing.assert_allclose(sorted_difference(q, p), [value], atol=1e-7)


@settings(deadline=None)
@given(distribution_pairs())
def test_values_follow_the_formula(pair):
    p, q = map(jnp.asarray, pair)
    np.testing.assert_allclose(sorted_difference(p, q), formula(*pair), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(distribution_pairs(), st.integers(1, 12))
def test_the_true_value_lies_within_the_bound(pair, k):
    p, q = map(jnp.asarray, pair)
    value, error = sorted_difference_top_k(p, q, k=k)
    true = formula(*pair)
    assert (value <= true + 1e-5).all()
    assert (true <= value + error + 1e-5).all()
    if k >= max(p.shape[-1], q.shape[-1]):
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def spread():
    """Nearly certain, less certain and nearly uniform distributions over 300 and 280 tokens."""
    random = np.random.default_rng(2)
    weights = np.exp(random.normal(size=(2, 3, 300)) * np.array([[9], [3], [0.1]]))
    p, q = np.float32(weights / weights.sum(axis=-1, keepdims=True))
    return jnp.asarray(p), jnp.asarray(q[:, :280])


@pytest.mark.parametrize("k", [1, 2, 400])
@pytest.mark.parametrize("max_error", [1.0, 0.1, 0.0])
def test_k_grows_until_every_error_is_small_enough(spread, k, max_error):
    true = formula(*map(np.asarray, spread))
    value, error = sorted_difference_adaptive(*spread, k=k, max_error=jnp.full(3, max_error))
    assert (error <= max_error).all()
    assert (value <= true + 1e-5).all()
    assert (true <= value + error + 1e-5).all()
    if max_error == 0:
        np.testing.assert_allclose(value, true, rtol=1e-5)


def test_k_grows_no_further_than_needed(spread):
    first = [probs[:1] for probs in spread]
    top_1 = sorted_difference_top_k(*first, k=1)
    assert top_1.max_error < 1.9
    np.testing.assert_array_equal(
        sorted_difference_adaptive(*first, k=1, max_error=jnp.full(1, 1.9)), top_1
    )
    # The second position needs a larger k, which then holds for the first one too.
    bounded = sorted_difference_adaptive(*spread, k=1, max_error=jnp.array([1.9, 0.5, jnp.inf]))
    np.testing.assert_array_equal(bounded, sorted_difference_top_k(*spread, k=4))


@pytest.mark.parametrize(("max_error", "k"), [(jnp.inf, 2), (0.0, 300)])
def test_the_gradient_is_that_of_the_final_k(spread, max_error, k):
    p, q = spread
    limits = jnp.full(3, max_error)
    gradient = jax.grad(
        lambda q: sorted_difference_adaptive(p, q, k=2, max_error=limits).value.sum()
    )(q)
    expected = jax.grad(lambda q: sorted_difference_top_k(p, q, k=k).value.sum())(q)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_gradient_is_that_of_the_formula():
    random = np.random.default_rng(0)
    p, q = (random.dirichlet(np.ones(size), 5).astype(np.float32) for size in (9, 7))
    exact = jax.grad(lambda q: sorted_difference(jnp.asarray(p), q).sum())(jnp.asarray(q))
    top_9 = jax.grad(lambda q: sorted_difference_top_k(jnp.asarray(p), q, k=9).value.sum())(
        jnp.asarray(q)
    )
    step = 1e-4
    for index in np.ndindex(q.shape):
        moved = q.astype(np.float64)
        moved[index] += step
        expected = (formula(p, moved).sum() - formula(p, q).sum()) / step
        assert exact[index] == pytest.approx(expected, abs=1e-3)
        assert top_9[index] == pytest.approx(expected, abs=1e-3)


def test_it_is_optimal_transport_at_equal_costs_between_any_two_tokens():
    # The i-th largest are matched whatever tokens they are, so this is the cheapest transport over
    # all permutations of one side's tokens.
    random = np.random.default_rng(1)
    p, q = random.dirichlet(np.ones(4)), random.dirichlet(np.ones(4))
    cost = 2 * (1 - np.eye(4))
    sums = np.vstack([np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))])
    best = min(
        linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q[list(order)]])).fun
        for order in np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1).T
        if len(set(order.tolist())) == 4
    )
    value = sorted_difference(jnp.float32(p)[None], jnp.float32(q)[None])
    assert float(value[0]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_numpy_sorts_as_xla_does(ties):
    """One CPU device sorts with NumPy, several devices with XLA."""
    x = np.random.default_rng(3).random((5, 97), np.float32)
    x = jnp.asarray(np.round(x, 1) if ties else x)
    for count in (1, 40, 97):
        by_numpy = jax.jit(partial(_top_and_rest_numpy, count=count))(x)
        by_xla = _top_and_rest_xla(x, count=count)
        np.testing.assert_array_equal(by_numpy[0], by_xla[0])
        np.testing.assert_allclose(by_numpy[1], by_xla[1], rtol=1e-6)
    for by_numpy, by_xla in zip(jax.jit(_stable_sort_numpy)(x), _stable_sort_xla(x), strict=True):
        np.testing.assert_array_equal(by_numpy, by_xla)
