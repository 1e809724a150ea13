"""Entropic optimal transport, row by row, by OTT-JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

_MIN_MASS = 1e-9
"""What a word weighs at least: the gradient of one that weighs nothing is not a number."""


def entropic_transport_cost(
    p: Float32[Array, "R N"],
    q: Float32[Array, "R M"],
    cost: Float32[Array, "R N M"],
    *,
    epsilon: float,
    num_iterations: int,
    relaxed: float | None = None,
) -> Float32[Array, " R"]:
    """Min ⟨P, cost⟩ + ε KL(P‖p qᵀ) over plans P that move the masses `p` to the masses `q`.

    It tends to the cost of optimal transport as ε tends to 0. The gradient is that of the optimum
    (by the envelope theorem) where the iterations have come close to it, and not their own.

    Args:
        p: The masses of some words.
        q: Those of others; as much altogether, unless `relaxed`.
        cost: What it costs to move one to the other.
        epsilon: How much the plan is smoothed.
        num_iterations: Of Sinkhorn's algorithm; as many for every row.
        relaxed: Plans need not move all: ρ KL(P 1‖p) + ρ KL(Pᵀ 1‖q) is what that costs, and this
            is ρ, in units of cost; None forbids it.

    Reference:
        Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013,
        https://arxiv.org/abs/1306.0895; Séjourné et al., "Sinkhorn Divergences for Unbalanced
        Optimal Transport", 2019, https://arxiv.org/abs/1910.12958; Cuturi et al., "Optimal
        Transport Tools (OTT)", 2022, https://arxiv.org/abs/2201.12324
    """
    # Imported where it is used: it takes two seconds.
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    tau = 1.0 if relaxed is None else relaxed / (relaxed + epsilon)
    solver = Sinkhorn(
        min_iterations=num_iterations,
        max_iterations=num_iterations,
        inner_iterations=num_iterations,
    )

    def gain(potential: Array) -> Array:
        return potential if relaxed is None else -relaxed * jnp.expm1(-potential / relaxed)

    def of_row(p: Array, q: Array, cost: Array) -> Array:
        # What a plan is measured by is part of the cost. OTT-JAX leaves it to the masses, and what
        # it finds is then not the least of its own objective where mass may be lost.
        cost = cost - epsilon * (jnp.log(p)[:, None] + jnp.log(q)[None])
        fixed, *masses = jax.lax.stop_gradient((cost, p, q))
        problem = LinearProblem(Geometry(fixed, epsilon=epsilon), *masses, tau_a=tau, tau_b=tau)
        f, g = jax.lax.stop_gradient(solver(problem).potentials)
        plan = jnp.exp((f[:, None] + g[None] - cost) / epsilon)
        return p @ gain(f) + q @ gain(g) + epsilon * (p.sum() * q.sum() - plan.sum())

    cost = jax.lax.stop_gradient(cost)
    with jax.default_matmul_precision("float32"), jax.numpy_rank_promotion("allow"):
        return jax.vmap(of_row)(jnp.maximum(p, _MIN_MASS), jnp.maximum(q, _MIN_MASS), cost)
