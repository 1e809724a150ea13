"""Sorted differences against NumPy, a linear programme, and what can be worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from jaxdistill.losses import transport
from jaxdistill.losses.sorted_difference import (
    sorted_difference,
    sorted_difference_adaptive,
    sorted_difference_top_k,
)


def dense(p, q):
    """The rule as it is written, in float64."""
    size = max(p.shape[-1], q.shape[-1])
    p, q = (
        np.pad(-np.sort(-side.astype(np.float64)), ((0, 0), (0, size - side.shape[-1])))
        for side in (p, q)
    )
    return np.abs(p - q).sum(axis=-1)


SIZES = st.integers(1, 12)


def rows():
    """Two distributions a row, of unlike vocabularies, with ties and words of probability 0."""
    weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.5, 1e-6])

    def made(shape):
        one = arrays(np.float32, (2, shape), elements=weights)
        return one.map(lambda x: x / np.maximum(x.sum(axis=-1, keepdims=True), 1e-6))

    return st.tuples(SIZES.flatmap(made), SIZES.flatmap(made))


@pytest.mark.parametrize(
    ("p", "q", "value"),
    [
        ([0.7, 0.2, 0.1], [0.1, 0.7, 0.2], 0),
        ([1, 0, 0, 0], [0.25] * 4, 1.5),
        ([0.6, 0.4], [0.5, 0.3, 0.2], 0.4),
        ([1], [1, 0, 0], 0),
    ],
)
def test_by_hand(p, q, value):
    p, q = jnp.array([p], jnp.float32), jnp.array([q], jnp.float32)
    np.testing.assert_allclose(sorted_difference(p, q), [value], atol=1e-7)
    np.testing.assert_allclose(sorted_difference(q, p), [value], atol=1e-7)


@settings(deadline=None)
@given(rows())
def test_any_rows(pair):
    p, q = map(jnp.asarray, pair)
    np.testing.assert_allclose(sorted_difference(p, q), dense(*pair), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(rows(), st.integers(1, 12))
def test_the_bound_holds(pair, k):
    p, q = map(jnp.asarray, pair)
    value, error = sorted_difference_top_k(p, q, k=k)
    true = dense(*pair)
    assert (value <= true + 1e-5).all()
    assert (true <= value + error + 1e-5).all()
    if k >= max(p.shape[-1], q.shape[-1]):
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def spread():
    """Rows of 300 words that are nearly sure, less so, and even: few words say all of some."""
    random = np.random.default_rng(2)
    weights = np.exp(random.normal(size=(2, 3, 300)) * np.array([[9], [3], [0.1]]))
    p, q = np.float32(weights / weights.sum(axis=-1, keepdims=True))
    return jnp.asarray(p), jnp.asarray(q[:, :280])


@pytest.mark.parametrize("k", [1, 2, 400])
@pytest.mark.parametrize("max_error", [1.0, 0.1, 0.0])
def test_as_many_words_as_it_takes(spread, k, max_error):
    true = dense(*map(np.asarray, spread))
    value, error = sorted_difference_adaptive(*spread, k=k, max_error=jnp.full(3, max_error))
    assert (error <= max_error).all()
    assert (value <= true + 1e-5).all()
    assert (true <= value + error + 1e-5).all()
    if max_error == 0:
        np.testing.assert_allclose(value, true, rtol=1e-5)


def test_no_more_words_than_it_takes(spread):
    first = [side[:1] for side in spread]
    of_one = sorted_difference_top_k(*first, k=1)
    assert of_one[1] < 1.9
    np.testing.assert_array_equal(
        sorted_difference_adaptive(*first, k=1, max_error=jnp.full(1, 1.9)), of_one
    )
    # The second row needs more than one word, and the first then gets them, too.
    of_all = sorted_difference_adaptive(*spread, k=1, max_error=jnp.array([1.9, 0.5, jnp.inf]))
    np.testing.assert_array_equal(of_all, sorted_difference_top_k(*spread, k=4))


@pytest.mark.parametrize(("max_error", "k"), [(jnp.inf, 2), (0.0, 300)])
def test_the_gradient_is_that_of_the_words_that_were_looked_at(spread, max_error, k):
    p, q = spread
    limits = jnp.full(3, max_error)
    found = jax.grad(lambda q: sorted_difference_adaptive(p, q, k=2, max_error=limits)[0].sum())(q)
    expected = jax.grad(lambda q: sorted_difference_top_k(p, q, k=k)[0].sum())(q)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gradient_is_that_of_the_rule():
    random = np.random.default_rng(0)
    p, q = (random.dirichlet(np.ones(size), 5).astype(np.float32) for size in (9, 7))
    found = jax.grad(lambda q: sorted_difference(jnp.asarray(p), q).sum())(jnp.asarray(q))
    top = jax.grad(lambda q: sorted_difference_top_k(jnp.asarray(p), q, k=9)[0].sum())
    whole = top(jnp.asarray(q))
    step = 1e-4
    for place in np.ndindex(q.shape):
        moved = q.astype(np.float64)
        moved[place] += step
        slope = (dense(p, moved).sum() - dense(p, q).sum()) / step
        assert found[place] == pytest.approx(slope, abs=1e-3)
        assert whole[place] == pytest.approx(slope, abs=1e-3)


def test_it_is_optimal_transport_where_every_move_costs_the_same():
    # The largest of one side is matched with the largest of the other, whatever words they are:
    # transport between words that are free to be renamed, so the cheapest over all renamings.
    random = np.random.default_rng(1)
    p, q = random.dirichlet(np.ones(4)), random.dirichlet(np.ones(4))
    cost = 2 * (1 - np.eye(4))
    sums = np.vstack([np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))])
    best = min(
        linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q[list(order)]])).fun
        for order in np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1).T
        if len(set(order.tolist())) == 4
    )
    found = sorted_difference(jnp.float32(p)[None], jnp.float32(q)[None])
    assert float(found[0]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_numpy_sorts_as_xla_does(ties):
    """What one CPU device sorts with is not what several sort with."""
    x = np.random.default_rng(3).random((5, 97), np.float32)
    x = jnp.asarray(np.round(x, 1) if ties else x)
    for count in (1, 40, 97):
        by_numpy = jax.jit(partial(transport._top_and_rest_numpy, count=count))(x)
        by_xla = transport._top_and_rest_xla(x, count=count)
        np.testing.assert_array_equal(by_numpy[0], by_xla[0])
        np.testing.assert_allclose(by_numpy[1], by_xla[1], rtol=1e-6)
    for ours, theirs in zip(
        jax.jit(transport._stable_sort_numpy)(x), transport._stable_sort_xla(x), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
