"""Unbalanced optimal transport in float64: the cost of a plan, and the cheapest plan."""

import numpy as np
from scipy.special import logsumexp


def kl_divergence(left, right):
    return np.sum(left * np.log(left / right) - left + right)


def plan_cost(plan, p, q, cost, *, epsilon, relaxed):
    """⟨P, cost⟩ + ε KL(P‖p qᵀ) + ρ KL(P 1‖p) + ρ KL(Pᵀ 1‖q)."""
    marginals = kl_divergence(plan.sum(1), p) + kl_divergence(plan.sum(0), q)
    entropic = kl_divergence(plan, np.outer(p, q))
    return np.sum(plan * cost) + epsilon * entropic + relaxed * marginals


def cheapest_plan(p, q, cost, *, epsilon, relaxed):
    """Return the plan by the updates of Séjourné et al., 2019, https://arxiv.org/abs/1910.12958."""
    p, q, cost = map(np.float64, (p, q, cost))
    f, g, tau = np.zeros(len(p)), np.zeros(len(q)), relaxed / (relaxed + epsilon)
    for _ in range(5000):
        f = -tau * epsilon * logsumexp((g - cost) / epsilon, b=q, axis=1)
        g = -tau * epsilon * logsumexp((f[:, None] - cost) / epsilon, b=p[:, None], axis=0)
    return np.outer(p, q) * np.exp((f[:, None] + g - cost) / epsilon)
