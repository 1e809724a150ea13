"""Entropic optimal transport in float64: the cost of a plan, and the cheapest plan.

`relaxed` is the price ρ of mass that is created or destroyed; None for balanced transport.
"""

import numpy as np


def kl_divergence(left, right):
    return np.sum(left * np.log(left / right) - left + right)


def plan_cost(plan, p, q, cost, *, epsilon, relaxed):
    """⟨P, cost⟩ + ε KL(P‖p qᵀ), and where relaxed + ρ KL(P 1‖p) + ρ KL(Pᵀ 1‖q)."""
    value = np.sum(plan * cost) + epsilon * kl_divergence(plan, np.outer(p, q))
    if relaxed is None:
        return value
    return value + relaxed * (kl_divergence(plan.sum(1), p) + kl_divergence(plan.sum(0), q))


def cheapest_plan(p, q, cost, *, epsilon, relaxed):
    """Return the plan by the updates of Séjourné et al., 2019, https://arxiv.org/abs/1910.12958.

    They scale the rows and columns of exp(-cost / epsilon). A much smaller epsilon would need
    logarithms, which are many times slower.
    """
    p, q, cost = map(np.float64, (p, q, cost))
    kernel = np.exp(-cost / epsilon)
    tau = 1.0 if relaxed is None else relaxed / (relaxed + epsilon)
    rows, columns = np.ones(len(p)), np.ones(len(q))
    for _ in range(5000):
        rows = (kernel @ (q * columns)) ** -tau
        columns = ((p * rows) @ kernel) ** -tau
    return np.outer(p * rows, q * columns) * kernel
