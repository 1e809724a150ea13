"""Transport where mass may be lost, in float64: what a plan costs, and the cheapest plan."""

import numpy as np
from scipy.special import logsumexp


def relative_entropy(left, right):
    return np.sum(left * np.log(left / right) - left + right)


def cost_of(plan, p, q, cost, *, epsilon, relaxed):
    """⟨P, cost⟩ + ε KL(P‖p qᵀ) + ρ KL(P 1‖p) + ρ KL(Pᵀ 1‖q)."""
    lost = relative_entropy(plan.sum(1), p) + relative_entropy(plan.sum(0), q)
    smooth = relative_entropy(plan, np.outer(p, q))
    return np.sum(plan * cost) + epsilon * smooth + relaxed * lost


def cheapest(p, q, cost, *, epsilon, relaxed):
    """By the updates of Séjourné et al., 2019, https://arxiv.org/abs/1910.12958."""
    p, q, cost = (np.float64(one) for one in (p, q, cost))
    f, g, tau = np.zeros(len(p)), np.zeros(len(q)), relaxed / (relaxed + epsilon)
    for _ in range(5000):
        f = -tau * epsilon * logsumexp((g - cost) / epsilon, b=q, axis=1)
        g = -tau * epsilon * logsumexp((f[:, None] - cost) / epsilon, b=p[:, None], axis=0)
    return np.outer(p, q) * np.exp((f[:, None] + g - cost) / epsilon)
