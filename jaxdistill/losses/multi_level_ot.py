"""How far two answers are as a whole, each in the columns that are likeliest all through it.

A row holds how likely a few words are at one place, the same words in all rows of an answer. That
of the teacher and of the student are compared column by column, whatever words they stand for.
Gradients reach the student's `q` alone.

Reference:
    Cui et al., "Multi-Level Optimal Transport for Universal Cross-Tokenizer Knowledge Distillation
    on Language Models", 2025, https://arxiv.org/abs/2412.14528. The names are the paper's, and the
    formulas those of its authors' code: two of them soften probabilities by another softmax, as if
    they were logits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

_TEMPERATURE = 2.0
"""What probabilities are divided by before they are softened to be places of a transport."""

_LOG_ZERO = -1e30
"""The logarithm of what is as good as nothing, and finite, so that its gradient is a number."""


def holistic_absolute_difference(
    p: Float32[Array, "*R N"], q: Float32[Array, "*R N"]
) -> Float32[Array, "*R"]:
    """Σ |pᵢ − qᵢ|: the holistic absolute difference, of columns in one order for an answer."""
    return jnp.sum(jnp.abs(jax.lax.stop_gradient(p) - q), axis=-1)


def sequential_logarithmic_cost(
    p: Float32[Array, "*R N"], q: Float32[Array, "*R N"]
) -> Float32[Array, "*R"]:
    """−Σ softmax(q)ᵢ log softmax(p)ᵢ: the sequential logarithmic cost.

    It is least where the student is certain of the teacher's likeliest column, and not where both
    are equal: it sharpens what `absolute_difference` holds in place.
    """
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(p))
    return -jnp.sum(jax.nn.softmax(q) * log_p, axis=-1)


def sinkhorn_distance(
    p: Float32[Array, "S N"],
    q: Float32[Array, "T N"],
    is_same_sequence: Bool[Array, "S T"],
    *,
    epsilon: float,
    num_iterations: int,
) -> Float32[Array, " T"]:
    """Σᵢ Pᵢⱼ Wᵢⱼ, with Wᵢⱼ = Σ |softmax(pᵢ/2) − softmax(qⱼ/2)|: the Sinkhorn distance of answers.

    The plan P begins as exp(−W/ε); its rows are scaled to one and then its columns, so many times,
    through which the gradient goes. Each of the student's places has one part to receive in the
    end, and those of the teacher's answer give as much as each other.

    Args:
        p: The teacher's places.
        q: The student's.
        is_pair: Which belong to one answer; answers do not see each other.
        epsilon: How much the plan is smoothed.
        num_iterations: How often rows and columns are scaled.
    """
    p, q = (jax.nn.softmax(side / _TEMPERATURE) for side in (jax.lax.stop_gradient(p), q))
    cost = _pairwise_l1(p, q)
    log_kernel = jnp.where(is_same_sequence, -cost / epsilon, _LOG_ZERO)
    gives, receives = is_same_sequence.any(axis=1), is_same_sequence.any(axis=0)

    # Kept are the scales alone: what they are made of is as large as the plan, and made again.
    @jax.checkpoint
    def scale(columns: Array, _: None) -> tuple[Array, Array]:
        rows = -jax.nn.logsumexp(log_kernel + columns[None, :], axis=1)
        rows = jnp.where(gives, rows, 0)
        columns = -jax.nn.logsumexp(log_kernel + rows[:, None], axis=0)
        return jnp.where(receives, columns, 0), rows

    columns, rows = jax.lax.scan(scale, jnp.zeros(len(q)), length=num_iterations)
    plan = jnp.exp(log_kernel + rows[-1][:, None] + columns[None, :])
    return jnp.sum(jnp.where(is_same_sequence, plan * cost, 0), axis=0)


def _pairwise_l1(p: Float32[Array, "S N"], q: Float32[Array, "T N"]) -> Float32[Array, "S T"]:
    """Σ |pᵢ − qⱼ|, a column after the other: all of them at once would be N times as large."""

    @jax.checkpoint
    def difference(p: Array, q: Array) -> Array:
        return jnp.abs(p[:, None] - q[None, :])

    def add(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
        return total + difference(*columns), None

    return jax.lax.scan(add, jnp.zeros((len(p), len(q))), (p.T, q.T))[0]
