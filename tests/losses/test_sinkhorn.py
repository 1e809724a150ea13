"""Entropic transport beside a linear programme, and edit distances beside the textbook's table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from jaxdistill.losses import entropic_transport_cost, normalised_edit_distance
from tests.losses.plans import cheapest, cost_of

LENGTH = 6


def exact(p, q, cost):
    """The cheapest plan, by a linear programme."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([p, q])).fun


def problem(seed, n=5, m=7):
    random = np.random.default_rng(seed)
    p, q = random.dirichlet(np.ones(n), 3), random.dirichlet(np.ones(m), 3)
    return [jnp.asarray(x, jnp.float32) for x in (p, q, random.uniform(size=(3, n, m)))]


@pytest.mark.parametrize("seed", range(3))
def test_it_tends_to_the_exact_cost(seed):
    p, q, cost = problem(seed)
    expected = [exact(*map(np.float64, row)) for row in zip(p, q, cost, strict=True)]
    errors = []
    for epsilon, num_iterations in ((0.1, 200), (0.01, 1000), (0.001, 8000)):
        found = entropic_transport_cost(p, q, cost, epsilon=epsilon, num_iterations=num_iterations)
        errors.append(np.abs(np.asarray(found) - expected).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 3e-3


def test_the_gradient_is_that_of_the_optimum():
    p, q, cost = problem(7)

    def value(q, p=p):
        return entropic_transport_cost(p, q, cost, epsilon=0.05, num_iterations=500).sum()

    slope, step = jax.grad(value)(q), 1e-2
    for row, (gain, loss) in enumerate([(0, 1), (3, 5), (6, 2)]):
        # Mass moves from one word to another: the sum of all stays.
        moved = step * min(1.0, float(q[row, loss]))
        up, down = (
            value(q.at[row, gain].add(sign * moved).at[row, loss].add(-sign * moved))
            for sign in (1, -1)
        )
        expected = (up - down) / (2 * moved)
        assert slope[row, gain] - slope[row, loss] == pytest.approx(float(expected), abs=2e-2)

    def swapped(p):
        return entropic_transport_cost(
            q, p, cost.swapaxes(1, 2), epsilon=0.05, num_iterations=500
        ).sum()

    # Up to what all words have in common, which probabilities do not hear of.
    of_first = jax.grad(lambda p: value(q, p))(p)
    expected = jax.grad(swapped)(p)
    for found in (of_first, expected):
        assert np.ptp(found) > 0.1
    np.testing.assert_allclose(
        of_first - of_first.mean(1, keepdims=True),
        expected - expected.mean(1, keepdims=True),
        atol=2e-3,
    )


def test_words_of_no_weight_and_lost_mass_do_no_harm():
    p, q, cost = problem(1)
    p = p.at[:, 0].set(0)
    value, slope = jax.value_and_grad(
        lambda q: entropic_transport_cost(
            p, q.at[:, 1].set(0), cost, epsilon=0.05, num_iterations=100, relaxed=1.0
        ).sum()
    )(q)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(("epsilon", "relaxed"), [(0.2, 0.5), (0.1, 0.1), (0.05, 2.0)])
def test_where_mass_may_be_lost_it_is_what_the_cheapest_plan_costs(epsilon, relaxed):
    options = {"epsilon": epsilon, "relaxed": relaxed}
    p, q, cost = (np.float64(one) for one in problem(3))
    q = 0.7 * q  # and there is less of it
    random, expected = np.random.default_rng(0), []
    for row in zip(p, q, cost, strict=True):
        plan = cheapest(*row, **options)
        expected.append(cost_of(plan, *row, **options))
        for size in (1e-3, 0.1):
            other = plan * np.exp(size * random.normal(size=plan.shape))
            assert cost_of(other, *row, **options) > expected[-1]
    sides = [jnp.float32(one) for one in (p, q, cost)]
    found = entropic_transport_cost(*sides, num_iterations=400, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def textbook(left, right):
    table = np.zeros((len(left) + 1, len(right) + 1), int)
    table[:, 0], table[0] = np.arange(len(left) + 1), np.arange(len(right) + 1)
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)
            )
    return table[-1, -1] / max(len(left), len(right), 1)


WORD = st.lists(st.integers(0, 3), max_size=LENGTH)


@settings(deadline=None)
@given(st.lists(st.tuples(WORD, WORD), min_size=8, max_size=8))
def test_edit_distances(pairs):
    columns = []
    for side in range(2):
        words = np.full((len(pairs), LENGTH), 9)  # anything behind the end
        for number, pair in enumerate(pairs):
            words[number, : len(pair[side])] = pair[side]
        columns += [jnp.array(words), jnp.array([len(pair[side]) for pair in pairs])]
    expected = [textbook(*pair) for pair in pairs]
    np.testing.assert_allclose(normalised_edit_distance(*columns), expected, rtol=1e-6)
