"""Sorted differences, compared with NumPy, a linear programme and values by hand."""

import jax
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


SIZES = (9, 9), (12, 5), (1, 6)
"""Numbers of tokens on both sides. Few, since each pair is a compiled program."""
KS = 1, 3, 7, 12


def distribution_pairs():
    """Draw distributions over two vocabularies, with ties and tokens of probability 0."""
    weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.5, 1e-6])

    def distributions(size):
        rows = arrays(np.float32, (2, size), elements=weights)
        return rows.map(lambda x: x / np.maximum(x.sum(axis=-1, keepdims=True), np.float32(1e-6)))

    return st.sampled_from(SIZES).flatmap(lambda sizes: st.tuples(*map(distributions, sizes)))


@jax.jit
def exact_and_bounded(p, q):
    """Compute the sorted difference, and its bounds for each k."""
    return sorted_difference(p, q), {k: sorted_difference_top_k(p, q, k=k) for k in KS}


def test_values_by_hand():
    p = np.float32([[0.7, 0.2, 0.1, 0], [1, 0, 0, 0], [0.6, 0.4, 0, 0], [1, 0, 0, 0]])
    q = np.float32([[0.1, 0.7, 0.2, 0], [0.25] * 4, [0.5, 0.3, 0.2, 0], [1, 0, 0, 0]])
    for pair in ((p, q), (q, p)):
        np.testing.assert_allclose(exact_and_bounded(*pair)[0], [0, 1.5, 0.4, 0], atol=1e-7)


@settings(deadline=None)
@given(distribution_pairs())
def test_values_follow_the_formula_and_lie_within_bounds(pair):
    true = formula(*pair)
    exact, bounded = jax.device_get(exact_and_bounded(*pair))
    np.testing.assert_allclose(exact, true, rtol=1e-5, atol=1e-6)
    for k, (value, error) in bounded.items():
        assert (value <= true + 1e-5).all()
        assert (true <= value + error + 1e-5).all()
        if k >= max(array.shape[-1] for array in pair):
            np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def spread():
    """Nearly certain, less certain and nearly uniform distributions over 300 and 280 tokens."""
    random = np.random.default_rng(2)
    weights = np.exp(random.normal(size=(2, 3, 300)) * np.array([[9], [3], [0.1]]))
    p, q = np.float32(weights / weights.sum(axis=-1, keepdims=True))
    return p, q[:, :280]


@jax.jit
def adaptive(p, q, max_error):
    return {k: sorted_difference_adaptive(p, q, k=k, max_error=max_error) for k in (1, 2, 400)}, {
        k: sorted_difference_top_k(p, q, k=k) for k in (1, 4)
    }


@pytest.mark.parametrize("k", [1, 2, 400])
@pytest.mark.parametrize("max_error", [1.0, 0.1, 0.0])
def test_k_grows_until_every_error_is_small_enough(spread, k, max_error):
    true = formula(*spread)
    value, error = jax.device_get(adaptive(*spread, np.full(3, max_error, np.float32))[0][k])
    assert (error <= max_error).all()
    assert (value <= true + 1e-5).all()
    assert (true <= value + error + 1e-5).all()
    if max_error == 0:
        np.testing.assert_allclose(value, true, rtol=1e-5)


def test_k_grows_no_further_than_needed(spread):
    bounded, by_k = jax.device_get(adaptive(*spread, np.float32([1.9, np.inf, np.inf])))
    assert by_k[1].max_error[0] < 1.9
    np.testing.assert_array_equal(bounded[1], by_k[1])
    # The second position needs a larger k, which then holds for the other ones too.
    bounded, by_k = jax.device_get(adaptive(*spread, np.float32([1.9, 0.5, np.inf])))
    np.testing.assert_array_equal(bounded[1], by_k[4])


@pytest.mark.parametrize(("max_error", "k"), [(np.inf, 2), (0.0, 300)])
def test_the_gradient_is_that_of_the_final_k(spread, max_error, k):
    gradient, expected = _gradients_of_adaptive(*spread, np.full(3, max_error, np.float32))
    np.testing.assert_allclose(gradient, expected[k], atol=1e-6)


@jax.jit
def _gradients_of_adaptive(p, q, max_error):
    def bounded(q):
        return sorted_difference_adaptive(p, q, k=2, max_error=max_error).value.sum()

    def top_k(q, k):
        return sorted_difference_top_k(p, q, k=k).value.sum()

    return jax.grad(bounded)(q), {k: jax.grad(top_k)(q, k) for k in (2, 300)}


def test_the_gradient_is_that_of_the_formula():
    random = np.random.default_rng(0)
    p, q = (random.dirichlet(np.ones(size), 5).astype(np.float32) for size in (9, 7))

    @jax.jit
    def gradients(p, q):
        return (
            jax.grad(lambda q: sorted_difference(p, q).sum())(q),
            jax.grad(lambda q: sorted_difference_top_k(p, q, k=9).value.sum())(q),
        )

    exact, top_9 = jax.device_get(gradients(p, q))
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
    # Four rows, as in `test_values_by_hand`.
    value = exact_and_bounded(*(np.tile(np.float32(x), (4, 1)) for x in (p, q)))[0]
    assert float(value[0]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_numpy_sorts_as_xla_does(ties):
    """One CPU device sorts with NumPy, several devices with XLA."""
    x = np.random.default_rng(3).random((5, 97), np.float32)
    x = np.round(x, 1) if ties else x
    tops, sorts = jax.device_get(_sort_both_ways(x))
    for by_numpy, by_xla in tops:
        np.testing.assert_array_equal(by_numpy[0], by_xla[0])
        np.testing.assert_allclose(by_numpy[1], by_xla[1], rtol=1e-6)
    for by_numpy, by_xla in zip(*sorts, strict=True):
        np.testing.assert_array_equal(by_numpy, by_xla)


@jax.jit
def _sort_both_ways(x):
    """Return `(by NumPy, by XLA)` of the largest 1, 40 and all, and of all with their order."""
    tops = [
        (_top_and_rest_numpy(x, count=count), _top_and_rest_xla(x, count=count))
        for count in (1, 40, 97)
    ]
    return tops, (_stable_sort_numpy(x), _stable_sort_xla(x))
