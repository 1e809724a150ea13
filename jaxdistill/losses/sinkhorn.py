"""Entropic optimal transport cost per position, computed with OTT-JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

_MIN_MASS = 1e-9
"""Lower bound of a token's mass: the gradient of a mass of 0 is NaN."""


def entropic_transport_cost(
    p: Float32[Array, "R N"],
    q: Float32[Array, "R M"],
    cost: Float32[Array, "R N M"],
    *,
    epsilon: float,
    num_iterations: int,
    relaxed: float | None = None,
) -> Float32[Array, " R"]:
    """Min ⟨P, cost⟩ + ε KL(P‖p qᵀ) over plans P that move the masses p to the masses q.

    The value tends to the optimal transport cost as ε tends to 0. The gradient is that of the
    optimum (envelope theorem), not that of the iterations; it is exact once they have converged.
    References: Cuturi, 2013, https://arxiv.org/abs/1306.0895; Séjourné et al. (unbalanced), 2019,
    https://arxiv.org/abs/1910.12958; Cuturi et al. (OTT), 2022, https://arxiv.org/abs/2201.12324.

    Args:
        p: Masses of N tokens.
        q: Masses of M tokens; of the same sum as `p`, unless `relaxed`.
        cost: Cost of moving a unit of mass between two tokens.
        epsilon: Entropic regularisation ε, in units of `cost`.
        num_iterations: Iterations of Sinkhorn's algorithm, the same for every position.
        relaxed: Marginal penalty ρ of unbalanced transport, in units of `cost`: the objective
            gains ρ KL(P 1‖p) + ρ KL(Pᵀ 1‖q). None for balanced transport.
    """
    # Imported here because the import takes two seconds.
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    tau = 1.0 if relaxed is None else relaxed / (relaxed + epsilon)
    solver = Sinkhorn(
        min_iterations=num_iterations,
        max_iterations=num_iterations,
        inner_iterations=num_iterations,
    )

    def dual_value(potential: Array) -> Array:
        return potential if relaxed is None else -relaxed * jnp.expm1(-potential / relaxed)

    def position_cost(p: Array, q: Array, cost: Array) -> Array:
        # The reference measure p qᵀ of the KL becomes part of the cost. OTT-JAX measures plans by
        # the masses alone; its result would then not minimise this objective where mass is lost.
        cost = cost - epsilon * (jnp.log(p)[:, None] + jnp.log(q)[None])
        fixed_cost, *masses = jax.lax.stop_gradient((cost, p, q))
        problem = LinearProblem(
            Geometry(fixed_cost, epsilon=epsilon), *masses, tau_a=tau, tau_b=tau
        )
        f, g = jax.lax.stop_gradient(solver(problem).potentials)
        plan = jnp.exp((f[:, None] + g[None] - cost) / epsilon)
        return p @ dual_value(f) + q @ dual_value(g) + epsilon * (p.sum() * q.sum() - plan.sum())

    cost = jax.lax.stop_gradient(cost)
    with jax.default_matmul_precision("float32"), jax.numpy_rank_promotion("allow"):
        return jax.vmap(position_cost)(jnp.maximum(p, _MIN_MASS), jnp.maximum(q, _MIN_MASS), cost)
