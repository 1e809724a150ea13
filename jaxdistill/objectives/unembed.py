"""From hidden states to logits, for the few rows that the wall looks at together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.types import Head


def logits(hidden: Float[Array, "*R D"], head: Head) -> Float32[Array, "*R V"]:
    """The logits of a few rows; -inf in columns that stand for no word."""
    return finish(project(hidden, head), head)


def project(hidden: Float[Array, "*R D"], head: Head) -> Float32[Array, "*R V"]:
    """What a head makes of hidden states before bias, scale and cap: one large product."""
    return multiply("...d,vd->...v", hidden, head.matrix)


def project_gradients(
    slope: Float32[Array, "R V"], hidden: Float[Array, "R D"], head: Head
) -> tuple[Float32[Array, "R D"], tuple[Float32[Array, "V D"], Float32[Array, " V"] | None]]:
    """What a gradient to a head's products is to hidden states, and to its matrix and bias."""
    bias = None if head.bias is None else jnp.sum(slope, axis=0)
    slope = slope.astype(head.matrix.dtype)
    matrix = multiply("rv,rd->vd", slope, hidden)
    return multiply("rv,vd->rd", slope, head.matrix), (matrix, bias)


def finish(scores: Float32[Array, "*R V"], head: Head) -> Float32[Array, "*R V"]:
    """From products to logits, as `Head` describes."""
    if head.bias is not None:
        scores = scores + head.bias.reshape((1,) * (scores.ndim - 1) + (-1,))
    scores = scores * head.scale
    if head.soft_cap is not None:
        scores = head.soft_cap * jnp.tanh(scores / head.soft_cap)
    if num_words(head) == scores.shape[-1]:
        return scores
    is_word = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) < num_words(head)
    return jnp.where(is_word, scores, -jnp.inf)


def num_words(head: Head) -> int:
    """How many rows of a head's matrix stand for a word."""
    return head.vocab_size or head.matrix.shape[0]


def multiply(formula: str, left: Array, right: Array) -> Float32[Array, "..."]:
    """A product that is added up in float32, whatever its factors are."""
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)
