"""Whole answers beside each other: transport beside the cheapest assignment, answers kept apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxdistill.losses import sequential_logarithmic_cost, sinkhorn_distance


def places(seed, count, columns=6):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.dirichlet(np.ones(columns), count), jnp.float32)


def cost(p, q):
    p, q = (jax.nn.softmax(side / 2) for side in (p, q))
    return np.abs(p[:, None] - q[None]).sum(-1)


def transport(p, q, is_pair=None, *, epsilon=0.1, num_iterations=10):
    if is_pair is None:
        is_pair = jnp.ones((len(p), len(q)), bool)
    return sinkhorn_distance(p, q, is_pair, epsilon=epsilon, num_iterations=num_iterations)


def test_it_tends_to_the_cheapest_assignment():
    p, q = places(0, 5), places(1, 5)
    between = cost(p, q)
    expected = between[linear_sum_assignment(between)].sum()
    errors = [
        float(transport(p, q, epsilon=epsilon, num_iterations=2000).sum()) - expected
        for epsilon in (0.1, 0.01, 0.0003)
    ]
    assert errors[0] > errors[1] > errors[2] > -1e-4
    assert errors[2] < 0.01 * expected


@pytest.mark.parametrize("counts", [(1, 4), (4, 1)])
def test_one_place_faces_all(counts):
    p, q = places(0, counts[0]), places(1, counts[1])
    expected = cost(p, q).mean(axis=0)
    np.testing.assert_allclose(transport(p, q), expected, rtol=1e-5)


def test_answers_do_not_see_each_other_and_padding_is_in_none():
    p, q = places(0, 6), places(1, 7)
    left, right = jnp.array([1, 1, 2, 2, 2, 0]), jnp.array([1, 2, 2, 0, 0, 3, 3])
    is_pair = (left[:, None] == right[None]) & (right > 0)[None]
    found = transport(p, q, is_pair)
    np.testing.assert_allclose(found[:1], transport(p[:2], q[:1]), rtol=1e-5)
    np.testing.assert_allclose(found[1:3], transport(p[2:5], q[1:3]), rtol=1e-5)
    np.testing.assert_array_equal(found[3:], 0)
    slope = jax.grad(lambda q: transport(p, q, is_pair).sum())(q)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[3:], 0)


def test_the_logarithmic_cost_is_least_at_the_teachers_likeliest_column():
    p = places(2, 1)
    columns = jnp.eye(p.shape[-1])
    found = sequential_logarithmic_cost(jnp.broadcast_to(p, columns.shape), columns)
    assert found.argmin() == p.argmax()
    assert found.min() < sequential_logarithmic_cost(p, p)[0]
