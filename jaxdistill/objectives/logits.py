"""Projection of hidden states to logits, and its backward pass."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.types import LMHead


def compute_logits(hidden: Float[Array, "*R D"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """Compute the logits of a few positions; -inf in columns of padding."""
    return finish_logits(project(hidden, lm_head), lm_head)


def project(hidden: Float[Array, "*R D"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """Compute raw logits `hidden @ matrix.T`, before bias, scale and cap."""
    return einsum_float32("...d,vd->...v", hidden, lm_head.matrix)


def project_backward(
    raw_logits_gradient: Float32[Array, "R V"], hidden: Float[Array, "R D"], lm_head: LMHead
) -> tuple[Float32[Array, "R D"], LMHead]:
    """Backward of `project`: d(raw logits) → d(hidden), and d(matrix), d(bias) as an LM head."""
    bias = None if lm_head.bias is None else jnp.sum(raw_logits_gradient, axis=0)
    raw_logits_gradient = raw_logits_gradient.astype(lm_head.matrix.dtype)
    matrix = einsum_float32("rv,rd->vd", raw_logits_gradient, hidden)
    hidden_gradient = einsum_float32("rv,vd->rd", raw_logits_gradient, lm_head.matrix)
    return hidden_gradient, replace(lm_head, matrix=matrix, bias=bias, vocab_tables=None)


def finish_logits(raw_logits: Float32[Array, "*R V"], lm_head: LMHead) -> Float32[Array, "*R V"]:
    """Apply the bias, scale, soft cap and padding of an LM head to raw logits."""
    if lm_head.bias is not None:
        raw_logits = raw_logits + lm_head.bias.reshape((1,) * (raw_logits.ndim - 1) + (-1,))
    raw_logits = raw_logits * lm_head.scale
    if lm_head.soft_cap is not None:
        raw_logits = lm_head.soft_cap * jnp.tanh(raw_logits / lm_head.soft_cap)
    vocab_size = lm_head_vocab_size(lm_head)
    if vocab_size == raw_logits.shape[-1]:
        return raw_logits
    tokens = jax.lax.broadcasted_iota(jnp.int32, raw_logits.shape, raw_logits.ndim - 1)
    return jnp.where(tokens < vocab_size, raw_logits, -jnp.inf)


def lm_head_vocab_size(lm_head: LMHead) -> int:
    """Number of rows of the LM head's matrix that are tokens, not padding."""
    return lm_head.vocab_size or lm_head.matrix.shape[0]


def einsum_float32(formula: str, left: Array, right: Array) -> Float32[Array, "..."]:
    """Compute `einsum` of two arrays of any precision, accumulated in float32."""
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)
