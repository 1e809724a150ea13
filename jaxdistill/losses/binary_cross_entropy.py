"""Binary cross-entropy between two models' likelihoods of the same span of text (ALM)."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

_LOG_PROB_MARGIN = 1e-6
"""Distance that log-likelihoods keep from 0 after the division by τ, as in the authors' code.

A span of likelihood 1 has no gradient at 0. With τ = 100 the margin takes a third of the gradient
of a span of likelihood 0.9999, and a twentieth at 0.999."""


def binary_cross_entropy(
    log_p: Float32[Array, "*R"], log_q: Float32[Array, "*R"], *, temperature: float
) -> Float32[Array, "*R"]:
    """−(p log q + (1 − p) log(1 − q)), where p and q are likelihoods to the power of 1/τ.

    The value is least, and its gradient 0, at p = q. The power spreads likelihoods that would all
    be close to 0, since a span of several tokens is unlikely under any model (Minixhofer et al.,
    2025, https://arxiv.org/abs/2503.20083).

    Args:
        log_p: The teacher's log-likelihood of each span, in nats.
        log_q: The student's.
        temperature: τ.
    """
    log_p, log_q = (
        jnp.minimum(log_likelihood / temperature, 0) - _LOG_PROB_MARGIN
        for log_likelihood in (log_p, log_q)
    )
    # 1 − p is computed as 1 − q is: another rounding would leave a gradient where both are equal.
    return -(jnp.exp(log_p) * log_q - jnp.expm1(log_p) * jnp.log(-jnp.expm1(log_q)))
