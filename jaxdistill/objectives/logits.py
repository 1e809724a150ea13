"""From hidden states to logits, for the few rows that the wall looks at together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.types import LMHead


def compute_logits(hidden: Float[Array, "*R D"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """The logits of a few rows; -inf in columns that stand for no word."""
    return finish_logits(project(hidden, lm_head), lm_head)


def project(hidden: Float[Array, "*R D"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """What a head makes of hidden states before bias, scale and cap: one large product."""
    return einsum_float32("...d,vd->...v", hidden, lm_head.matrix)


def project_backward(
    raw_logits_gradient: Float32[Array, "R V"], hidden: Float[Array, "R D"], lm_head: LMHead
) -> tuple[Float32[Array, "R D"], tuple[Float32[Array, "V D"], Float32[Array, " V"] | None]]:
    """What a gradient to a head's products is to hidden states, and to its matrix and bias."""
    bias = None if lm_head.bias is None else jnp.sum(raw_logits_gradient, axis=0)
    raw_logits_gradient = raw_logits_gradient.astype(lm_head.matrix.dtype)
    matrix = einsum_float32("rv,rd->vd", raw_logits_gradient, hidden)
    return einsum_float32("rv,vd->rd", raw_logits_gradient, lm_head.matrix), (matrix, bias)


def finish_logits(raw_logits: Float32[Array, "*R V"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """From products to logits, as `Head` describes."""
    if lm_head.bias is not None:
        raw_logits = raw_logits + lm_head.bias.reshape((1,) * (raw_logits.ndim - 1) + (-1,))
    raw_logits = raw_logits * lm_head.scale
    if lm_head.soft_cap is not None:
        raw_logits = lm_head.soft_cap * jnp.tanh(raw_logits / lm_head.soft_cap)
    if lm_head_vocab_size(lm_head) == raw_logits.shape[-1]:
        return raw_logits
    is_word = jax.lax.broadcasted_iota(
        jnp.int32, raw_logits.shape, raw_logits.ndim - 1
    ) < lm_head_vocab_size(lm_head)
    return jnp.where(is_word, raw_logits, -jnp.inf)


def lm_head_vocab_size(lm_head: LMHead) -> int:
    """How many rows of a head's matrix stand for a word."""
    return lm_head.vocab_size or lm_head.matrix.shape[0]


def einsum_float32(formula: str, left: Array, right: Array) -> Float32[Array, "..."]:
    """A product that is added up in float32, whatever its factors are."""
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)
