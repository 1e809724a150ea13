"""Costs of MultiLevelOT: optimal assignment as a limit, and completions kept apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxdistill.losses.multi_level_ot import sequential_logarithmic_cost, sinkhorn_distance


def random_probs(seed, num_positions, num_columns=6):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.dirichlet(np.ones(num_columns), num_positions), jnp.float32)


def pairwise_cost(p, q):
    p, q = (jax.nn.softmax(probs / 2) for probs in (p, q))
    return np.abs(p[:, None] - q[None]).sum(-1)


def distance(p, q, is_same_completion=None, *, epsilon=0.1, num_iterations=10):
    if is_same_completion is None:
        is_same_completion = jnp.ones((len(p), len(q)), bool)
    return sinkhorn_distance(
        p, q, is_same_completion, epsilon=epsilon, num_iterations=num_iterations
    )


def test_the_distance_tends_to_the_cheapest_assignment():
    p, q = random_probs(0, 5), random_probs(1, 5)
    cost = pairwise_cost(p, q)
    expected = cost[linear_sum_assignment(cost)].sum()
    errors = [
        float(distance(p, q, epsilon=epsilon, num_iterations=2000).sum()) - expected
        for epsilon in (0.1, 0.01, 0.0003)
    ]
    assert errors[0] > errors[1] > errors[2] > -1e-4
    assert errors[2] < 0.01 * expected


@pytest.mark.parametrize("counts", [(1, 4), (4, 1)])
def test_a_single_position_is_compared_with_all(counts):
    p, q = random_probs(0, counts[0]), random_probs(1, counts[1])
    expected = pairwise_cost(p, q).mean(axis=0)
    np.testing.assert_allclose(distance(p, q), expected, rtol=1e-5)


def test_no_mass_moves_between_completions_or_to_padding():
    p, q = random_probs(0, 6), random_probs(1, 7)
    teacher_ids, student_ids = jnp.array([1, 1, 2, 2, 2, 0]), jnp.array([1, 2, 2, 0, 0, 3, 3])
    is_same_completion = (teacher_ids[:, None] == student_ids[None]) & (student_ids > 0)[None]
    values = distance(p, q, is_same_completion)
    np.testing.assert_allclose(values[:1], distance(p[:2], q[:1]), rtol=1e-5)
    np.testing.assert_allclose(values[1:3], distance(p[2:5], q[1:3]), rtol=1e-5)
    np.testing.assert_array_equal(values[3:], 0)
    gradient = jax.grad(lambda q: distance(p, q, is_same_completion).sum())(q)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[3:], 0)


def test_the_logarithmic_cost_is_least_at_the_teachers_top_column():
    p = random_probs(2, 1)
    one_hot = jnp.eye(p.shape[-1])
    values = sequential_logarithmic_cost(jnp.broadcast_to(p, one_hot.shape), one_hot)
    assert values.argmin() == p.argmax()
    assert values.min() < sequential_logarithmic_cost(p, p)[0]
