"""Optimal transport costs of MultiLevelOT, between completions of two vocabularies.

`p` (teacher) and `q` (student) hold the probabilities of a completion's top tokens, one row per
position. A column is one token of either vocabulary; columns are compared in the order of their
probability over the completion, whatever tokens they stand for. Gradients reach `q` alone.

Reference:
    Cui et al., "Multi-Level Optimal Transport for Universal Cross-Tokenizer Knowledge Distillation
    on Language Models", 2025, https://arxiv.org/abs/2412.14528. Names are the paper's; formulas are
    those of the authors' code, where two of the three costs apply a softmax to probabilities.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

_TEMPERATURE = 2.0
"""Temperature of the softmax that the Sinkhorn distance applies to probabilities."""

_LOG_ZERO = -1e30
"""Logarithm of a negligible mass: finite, so that its gradient is finite."""


def holistic_absolute_difference(
    p: Float32[Array, "*R N"], q: Float32[Array, "*R N"]
) -> Float32[Array, "*R"]:
    """Σ |pᵢ − qᵢ| per position: the holistic absolute difference."""
    return jnp.sum(jnp.abs(jax.lax.stop_gradient(p) - q), axis=-1)


def sequential_logarithmic_cost(
    p: Float32[Array, "*R N"], q: Float32[Array, "*R N"]
) -> Float32[Array, "*R"]:
    """−Σ softmax(q)ᵢ log softmax(p)ᵢ per position: the sequential logarithmic cost.

    Its minimum is not q = p: it is a student that is certain of the teacher's first column. It
    sharpens q, while `holistic_absolute_difference` keeps q close to p.
    """
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(p))
    return -jnp.sum(jax.nn.softmax(q) * log_p, axis=-1)


def sinkhorn_distance(
    p: Float32[Array, "S N"],
    q: Float32[Array, "T N"],
    is_same_completion: Bool[Array, "S T"],
    *,
    epsilon: float,
    num_iterations: int,
) -> Float32[Array, " T"]:
    """Σᵢ Pᵢⱼ Wᵢⱼ per student position, with Wᵢⱼ = Σ |softmax(pᵢ/2) − softmax(qⱼ/2)|.

    The plan P starts as exp(−W/ε). Each iteration scales its rows, then its columns, to sum 1; the
    gradient goes through the iterations. In the end each student position receives a mass of 1,
    and the teacher's positions of a completion give equal shares. No mass moves between
    completions. `epsilon` is in units of W.
    """
    p, q = (jax.nn.softmax(probs / _TEMPERATURE) for probs in (jax.lax.stop_gradient(p), q))
    cost = _pairwise_l1(p, q)
    log_kernel = jnp.where(is_same_completion, -cost / epsilon, _LOG_ZERO)
    has_student, has_teacher = is_same_completion.any(axis=1), is_same_completion.any(axis=0)

    # Only the scales are kept for the backward pass: all else is as large as the plan.
    @jax.checkpoint
    def scale(log_columns: Array, _: None) -> tuple[Array, Array]:
        log_rows = -jax.nn.logsumexp(log_kernel + log_columns[None, :], axis=1)
        log_rows = jnp.where(has_student, log_rows, 0)
        log_columns = -jax.nn.logsumexp(log_kernel + log_rows[:, None], axis=0)
        return jnp.where(has_teacher, log_columns, 0), log_rows

    log_columns, log_rows = jax.lax.scan(scale, jnp.zeros(len(q)), length=num_iterations)
    plan = jnp.exp(log_kernel + log_rows[-1][:, None] + log_columns[None, :])
    return jnp.sum(jnp.where(is_same_completion, plan * cost, 0), axis=0)


def _pairwise_l1(p: Float32[Array, "S N"], q: Float32[Array, "T N"]) -> Float32[Array, "S T"]:
    """Σ |pᵢ − qⱼ| of all pairs, column by column: all columns at once take N times the memory."""

    @jax.checkpoint
    def difference(p: Array, q: Array) -> Array:
        return jnp.abs(p[:, None] - q[None, :])

    def add(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
        return total + difference(*columns), None

    return jax.lax.scan(add, jnp.zeros((len(p), len(q))), (p.T, q.T))[0]
