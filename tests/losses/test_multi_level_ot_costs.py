"""Costs of MultiLevelOT: optimal assignment as a limit, and completions kept apart."""

import functools

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from jaxdistill.losses.multi_level_ot import sequential_logarithmic_cost, sinkhorn_distance


def random_probs(seed, num_positions, num_columns=6):
    random = np.random.default_rng(seed)
    return np.float32(random.dirichlet(np.ones(num_columns), num_positions))


def pairwise_cost(p, q):
    p, q = (softmax(np.float64(probs) / 2, axis=-1) for probs in (p, q))
    return np.abs(p[:, None] - q[None]).sum(-1)


def dense_distance(p, q, *, epsilon, num_iterations):
    """Return the distance of one completion, in float64."""
    cost = pairwise_cost(p, q)
    plan = np.exp(-cost / epsilon)
    for _ in range(num_iterations):
        plan = plan / plan.sum(axis=1, keepdims=True)
        plan = plan / plan.sum(axis=0, keepdims=True)
    return (plan * cost).sum(axis=0)


@functools.partial(jax.jit, static_argnames=("epsilon", "num_iterations"))
def distance_and_gradient(p, q, is_same_completion, *, epsilon, num_iterations):
    def total(q):
        options = {"epsilon": epsilon, "num_iterations": num_iterations}
        values = sinkhorn_distance(p, q, is_same_completion, **options)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(q)
    return values, gradient


def distance(p, q, is_same_completion=None, *, epsilon=0.1, num_iterations=10):
    if is_same_completion is None:
        is_same_completion = np.ones((len(p), len(q)), bool)
    options = {"epsilon": epsilon, "num_iterations": num_iterations}
    return np.asarray(distance_and_gradient(p, q, is_same_completion, **options)[0])


def test_the_distance_tends_to_the_cheapest_assignment():
    p, q = random_probs(0, 5), random_probs(1, 5)
    cost = pairwise_cost(p, q)
    expected = cost[linear_sum_assignment(cost)].sum()
    errors = [
        float(distance(p, q, epsilon=epsilon, num_iterations=2000).sum()) - expected
        for epsilon in (0.1, 0.0003)
    ]
    assert errors[0] > errors[1] > -1e-4
    assert errors[1] < 0.01 * expected


@pytest.mark.parametrize("counts", [(1, 4), (4, 1)])
def test_a_single_position_is_compared_with_all(counts):
    p, q = random_probs(0, counts[0]), random_probs(1, counts[1])
    expected = pairwise_cost(p, q).mean(axis=0)
    np.testing.assert_allclose(distance(p, q), expected, rtol=1e-5)


def test_no_mass_moves_between_completions_or_to_padding():
    p, q = random_probs(0, 6), random_probs(1, 7)
    teacher_ids, student_ids = np.array([1, 1, 2, 2, 2, 0]), np.array([1, 2, 2, 0, 0, 3, 3])
    is_same_completion = (teacher_ids[:, None] == student_ids[None]) & (student_ids > 0)[None]
    options = {"epsilon": 0.1, "num_iterations": 10}
    results = distance_and_gradient(p, q, is_same_completion, **options)
    values, gradient = jax.device_get(results)
    np.testing.assert_allclose(values[:1], dense_distance(p[:2], q[:1], **options), rtol=1e-5)
    np.testing.assert_allclose(values[1:3], dense_distance(p[2:5], q[1:3], **options), rtol=1e-5)
    np.testing.assert_array_equal(values[3:], 0)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[3:], 0)


def test_the_logarithmic_cost_is_least_at_the_teachers_top_column():
    p = random_probs(2, 1)
    others = np.concatenate([np.eye(p.shape[-1], dtype=np.float32), p])
    cost = jax.jit(sequential_logarithmic_cost)
    *values, at_equality = np.asarray(cost(np.broadcast_to(p, others.shape), others))
    assert np.argmin(values) == p.argmax()
    assert min(values) < at_equality
