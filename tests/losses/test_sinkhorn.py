"""Entropic transport costs, compared with a linear programme and with float64 iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxdistill.losses import entropic_transport_cost
from tests.losses.unbalanced_transport import cheapest_plan, plan_cost


def exact_cost(p, q, cost):
    """Return the optimal transport cost, from a linear programme."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q])).fun


def random_problem(seed, n=5, m=7):
    random = np.random.default_rng(seed)
    p, q = random.dirichlet(np.ones(n), 3), random.dirichlet(np.ones(m), 3)
    return [jnp.asarray(x, jnp.float32) for x in (p, q, random.uniform(size=(3, n, m)))]


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_tends_to_that_of_optimal_transport(seed):
    p, q, cost = random_problem(seed)
    expected = [exact_cost(*map(np.float64, row)) for row in zip(p, q, cost, strict=True)]
    errors = []
    for epsilon, num_iterations in ((0.1, 200), (0.01, 1000), (0.001, 8000)):
        values = entropic_transport_cost(p, q, cost, epsilon=epsilon, num_iterations=num_iterations)
        errors.append(np.abs(np.asarray(values) - expected).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 3e-3


def test_the_gradient_is_that_of_the_optimum():
    p, q, cost = random_problem(7)

    def value(q, p=p):
        return entropic_transport_cost(p, q, cost, epsilon=0.05, num_iterations=500).sum()

    gradient, step = jax.grad(value)(q), 1e-2
    for row, (gain, loss) in enumerate([(0, 1), (3, 5), (6, 2)]):
        # Mass moves from one token to another: the total stays.
        moved = step * min(1.0, float(q[row, loss]))
        up, down = (
            value(q.at[row, gain].add(sign * moved).at[row, loss].add(-sign * moved))
            for sign in (1, -1)
        )
        expected = (up - down) / (2 * moved)
        assert gradient[row, gain] - gradient[row, loss] == pytest.approx(float(expected), abs=2e-2)

    def swapped_value(p):
        return entropic_transport_cost(
            q, p, cost.swapaxes(1, 2), epsilon=0.05, num_iterations=500
        ).sum()

    # Equal up to a constant per position, which has no effect on normalised masses.
    p_gradient = jax.grad(lambda p: value(q, p))(p)
    expected = jax.grad(swapped_value)(p)
    for values in (p_gradient, expected):
        assert np.ptp(values) > 0.1
    np.testing.assert_allclose(
        p_gradient - p_gradient.mean(1, keepdims=True),
        expected - expected.mean(1, keepdims=True),
        atol=2e-3,
    )


def test_values_and_gradients_are_finite_where_masses_are_0_or_lost():
    p, q, cost = random_problem(1)
    p = p.at[:, 0].set(0)
    value, gradient = jax.value_and_grad(
        lambda q: entropic_transport_cost(
            p, q.at[:, 1].set(0), cost, epsilon=0.05, num_iterations=100, relaxed=1.0
        ).sum()
    )(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("epsilon", "relaxed"), [(0.2, 0.5), (0.1, 0.1), (0.05, 2.0)])
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
    arrays = map(jnp.float32, (p, q, cost))
    values = entropic_transport_cost(*arrays, num_iterations=400, **options)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
