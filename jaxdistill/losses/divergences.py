"""Divergences between a teacher's distribution p and a student's q, per position, in nats.

Inputs are normalised log-probabilities over one vocabulary. A token may be impossible (-inf) on
one side or both. It then contributes its limit (0 log 0 = 0), never NaN, to value and gradient.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

_TINY = float(jnp.finfo(jnp.float32).tiny)
"""Smallest normal float32: a smaller probability adds nothing to a sum."""


def forward_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """KL(p‖q) = Σ p (log p − log q); infinite where q = 0 and p > 0 for a token."""
    return _kl_divergence(log_p, log_q)


def reverse_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """KL(q‖p) = Σ q (log q − log p); infinite where p = 0 and q > 0 for a token.

    The gradient at an infinite value is that of the finite terms: infinite terms have none.
    """
    q = jnp.exp(log_q)
    is_impossible = log_p == -jnp.inf
    log_ratio = jnp.where((q > 0) & ~is_impossible, log_q - log_p, 0)
    return jnp.sum(jnp.where((q > 0) & is_impossible, jnp.inf, q * log_ratio), axis=-1)


def jensen_shannon(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, beta: float
) -> Float32[Array, "*R"]:
    """β KL(p‖m) + (1 − β) KL(q‖m) with m = β p + (1 − β) q.

    By definition here, β = 0 is `forward_kl` and β = 1 is `reverse_kl`. These are the limits of the
    value divided by β and by 1 − β; the undivided value tends to 0 (Agarwal et al., 2023,
    https://arxiv.org/abs/2306.13649).
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
    """KL(p ‖ α p + (1 − α) q): at most −log α (Ko et al., 2024, https://arxiv.org/abs/2402.03898)."""
    return _kl_divergence(log_p, _log_mixture(log_p, log_q, p_weight=alpha))


def skew_reverse_kl(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, alpha: float
) -> Float32[Array, "*R"]:
    """KL(q ‖ (1 − α) p + α q): at most −log α, as `skew_kl`."""
    return _kl_divergence(log_q, _log_mixture(log_p, log_q, p_weight=1 - alpha))


def total_variation(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """½ Σ |p − q|, between 0 and 1; tokens with p = q have no gradient."""
    return jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1) / 2


def _kl_divergence(
    log_a: Float32[Array, "*R V"], log_b: Float32[Array, "*R V"]
) -> Float32[Array, "*R"]:
    """KL(a‖b) = Σ a (log a − log b), over tokens with a > 0."""
    a = jnp.exp(log_a)
    # `a == 0` and not `a > 0`: NaN must pass through, or a broken teacher would look like a match.
    is_zero = a == 0
    log_ratio = jnp.where(is_zero, 0, log_a - log_b)
    # The inner `where` keeps NaN out of the gradient. The outer one does not change the value: it
    # keeps XLA:CPU (of JAX 0.10.2) from calling a kernel for a sum of products, which takes a
    # fifth of the whole chunked loss.
    return jnp.sum(jnp.where(is_zero, 0, a * log_ratio), axis=-1)


def _log_mixture(
    log_p: Float32[Array, "*R V"], log_q: Float32[Array, "*R V"], *, p_weight: float
) -> Float32[Array, "*R V"]:
    """log(s p + (1 − s) q) with s = `p_weight`; finite where p = q = 0."""
    mixture = p_weight * jnp.exp(log_p) + (1 - p_weight) * jnp.exp(log_q)
    return finite_log(mixture)


def finite_log(probs: Float32[Array, "*R V"]) -> Float32[Array, "*R V"]:
    """log(max(probs, tiny)): finite value and gradient at 0."""
    return jnp.log(jnp.maximum(probs, _TINY))
