"""How far a student's distribution `q` is from a teacher's `p`, row by row, in nats.

Both come as normalised log-probabilities, in which a word may be impossible (-inf): on one side or
on both. It then adds its limit, 0 log 0 = 0, and no NaN, to the value and to the gradient alike.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.losses.finite_log import finite_log


def forward_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """KL(p‖q) = Σ p (log p − log q), infinite when the student rules out what the teacher says."""
    return _kl_divergence(log_p, log_q)


def reverse_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """KL(q‖p) = Σ q (log q − log p), infinite when the teacher rules out what the student says.

    The gradient of such a row is that of its finite terms: an infinite one has no direction.
    """
    q = jnp.exp(log_q)
    is_ruled_out = log_p == -jnp.inf
    log_ratio = jnp.where((q > 0) & ~is_ruled_out, log_q - log_p, 0)
    return jnp.sum(jnp.where((q > 0) & is_ruled_out, jnp.inf, q * log_ratio), axis=-1)


def jensen_shannon(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, beta: float
) -> Float32[Array, "*R"]:
    """β KL(p‖m) + (1 − β) KL(q‖m) with m = β p + (1 − β) q.

    The ends are the two divergences that it leads over to (and that it tends to when divided by β
    or 1 − β; undivided it tends to 0): β = 0 is `forward_kl`, β = 1 is `reverse_kl`.

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models", 2023,
        https://arxiv.org/abs/2306.13649
    """
    if beta == 0:
        return forward_kl(log_p, log_q)
    if beta == 1:
        return reverse_kl(log_p, log_q)
    log_m = _log_mixture(log_p, log_q, p_weight=beta)
    to_teacher = _kl_divergence(log_p, log_m)
    to_student = _kl_divergence(log_q, log_m)
    return beta * to_teacher + (1 - beta) * to_student


def skew_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, alpha: float
) -> Float32[Array, "*R"]:
    """KL(p ‖ α p + (1 − α) q): finite whatever the student says, at most −log α.

    Reference:
        Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024,
        https://arxiv.org/abs/2402.03898
    """
    return _kl_divergence(log_p, _log_mixture(log_p, log_q, p_weight=alpha))


def skew_reverse_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, alpha: float
) -> Float32[Array, "*R"]:
    """KL(q ‖ (1 − α) p + α q): finite whatever the teacher says, at most −log α.

    Reference:
        Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024,
        https://arxiv.org/abs/2402.03898
    """
    return _kl_divergence(log_q, _log_mixture(log_p, log_q, p_weight=1 - alpha))


def total_variation(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """½ Σ |p − q|, between 0 and 1; words on which both agree pull in no direction."""
    return jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1) / 2


def _kl_divergence(
    log_a: Float32[Array, "*R V"], log_b: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """Σ a (log a − log b) over the words that `a` can say."""
    a = jnp.exp(log_a)
    # Asked this way round, a NaN counts as present: a broken teacher must not look like a match.
    is_absent = a == 0
    log_ratio = jnp.where(is_absent, 0, log_a - log_b)
    # The inner `where` keeps NaN out of the gradient. The outer one changes nothing; but a plain
    # sum of products XLA:CPU (of JAX 0.10.2) hands to a kernel that takes a fifth of the walk.
    return jnp.sum(jnp.where(is_absent, 0, a * log_ratio), axis=-1)


def _log_mixture(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, p_weight: float
) -> Float32[Array, "*R V"]:
    """log(s p + (1 − s) q), kept finite where neither side has any mass."""
    mixture = p_weight * jnp.exp(log_p) + (1 - p_weight) * jnp.exp(log_q)
    return finite_log(mixture)
