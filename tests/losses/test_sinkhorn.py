"""Entropic transport costs, compared with a linear programme and with float64 iterations."""

import functools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxdistill.losses import entropic_transport_cost
from tests.losses.entropic_transport import cheapest_plan, plan_cost


def exact_cost(p, q, cost):
    """Return the optimal transport cost, from a linear programme."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q])).fun


def random_problem(seed, n=5, m=7, num_positions=3):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(n), num_positions)
    q = random.dirichlet(np.ones(m), num_positions)
    return [np.float32(x) for x in (p, q, random.uniform(size=(num_positions, n, m)))]


transport_cost = jax.jit(
    entropic_transport_cost, static_argnames=("epsilon", "num_iterations", "relaxed")
)


def test_the_cost_tends_to_that_of_optimal_transport():
    p, q, cost = random_problem(0, num_positions=9)
    expected = [exact_cost(*map(np.float64, row)) for row in zip(p, q, cost, strict=True)]
    errors = []
    for epsilon, num_iterations in ((0.1, 200), (0.001, 8000)):
        values = transport_cost(p, q, cost, epsilon=epsilon, num_iterations=num_iterations)
        errors.append(np.abs(np.asarray(values) - expected).max())
    assert errors[0] > errors[1]
    assert errors[1] < 3e-3


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def sum_and_gradients(p, q, cost):
    return entropic_transport_cost(p, q, cost, epsilon=0.05, num_iterations=500).sum()


def test_the_gradient_is_that_of_the_optimum():
    p, q, cost = random_problem(7, 6, 6)
    p_gradient, q_gradient = jax.device_get(sum_and_gradients(p, q, cost)[1])
    step = 1e-2
    for row, (gain, loss) in enumerate([(0, 1), (3, 5), (4, 2)]):
        # Mass moves from one token to another: the total stays.
        moved = step * min(1.0, float(q[row, loss]))
        both = np.stack([q, q])
        for changed, mass in zip(both, (moved, -moved), strict=True):
            changed[row, gain] += mass
            changed[row, loss] -= mass
        up, down = (sum_and_gradients(p, changed, cost)[0] for changed in both)
        expected = (float(up) - float(down)) / (2 * moved)
        difference = q_gradient[row, gain] - q_gradient[row, loss]
        assert difference == pytest.approx(expected, abs=2e-2)

    # Equal up to a constant per position, which has no effect on normalised masses.
    expected = np.asarray(sum_and_gradients(q, p, cost.swapaxes(1, 2))[1][1])
    for values in (p_gradient, expected):
        assert np.ptp(values) > 0.1
    np.testing.assert_allclose(
        p_gradient - p_gradient.mean(1, keepdims=True),
        expected - expected.mean(1, keepdims=True),
        atol=2e-3,
    )


def test_values_and_gradients_are_finite_where_masses_are_0_or_lost():
    p, q, cost = random_problem(1)
    p[:, 0] = 0

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(q, p, cost):
        return entropic_transport_cost(
            p, q.at[:, 1].set(0), cost, epsilon=0.05, num_iterations=100, relaxed=1.0
        ).sum()

    value, gradient = value_and_gradient(q, p, cost)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("epsilon", "relaxed"), [(0.1, 0.1), (0.05, 2.0)])
def test_the_relaxed_cost_is_that_of_the_cheapest_plan(epsilon, relaxed):
    options = {"epsilon": epsilon, "relaxed": relaxed}
    p, q, cost = map(np.float64, random_problem(3))
    q = 0.7 * q  # less mass than p
    random, expected = np.random.default_rng(0), []
    for row in zip(p, q, cost, strict=True):
        plan = cheapest_plan(*row, **options)
        expected.append(plan_cost(plan, *row, **options))
        for size in (1e-3, 0.1):
            other_plan = plan * np.exp(size * random.normal(size=plan.shape))
            assert plan_cost(other_plan, *row, **options) > expected[-1]
    arrays = map(np.float32, (p, q, cost))
    values = transport_cost(*arrays, num_iterations=400, **options)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
