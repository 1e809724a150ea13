"""Sampling of the next token: greedy, temperature, top-k and top-p, without sorting a vocabulary.

Tokens are ordered by logit, and equal logits by token id. So every cut is well defined: the
nucleus is the shortest prefix of that order whose probability reaches `top_p`.

The nucleus is sampled by rejection. A token drawn from the whole distribution is in the nucleus if
the tokens before it in the order have less than `top_p`, which one pass decides. Otherwise neither
that token nor any after it is in the nucleus, and the next draw is from the tokens before it. The
candidates of every draw contain the nucleus, so accepted tokens follow its distribution. Each
rejection shrinks the candidates like a step of quicksort: one or two passes are typical, where a
sort takes seconds.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Key
from pydantic import Field

from jaxdistill.config import configclass

_BLOCK_SIZE = 256
"""Tokens whose weights are summed first, so that no cumulative sum is as long as a vocabulary."""

_MIN_TEMPERATURE = 1e-5
"""Lower temperatures mean greedy decoding: scaled logits would leave the range of float32."""


@configclass
class Sampling:
    """Sampling of a completion: `temperature` is applied first, then `top_k`, then `top_p`.

    Attributes:
        max_new_tokens: Maximum number of generated tokens; an end-of-text token stops earlier.
        temperature: Logits are divided by it. 0 is greedy decoding, 1 samples from the model's
            own distribution.
        top_k: Sample only from this many most probable tokens; 0 for all tokens.
        top_p: Sample only from the nucleus: the fewest most probable tokens whose probabilities
            sum to at least this; 1 for all tokens. The smallest value is 1e-6, below which float32
            cannot add them up; take a temperature of 0 for the most probable token alone.
    """

    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1)] = 1.0


def sample_next_token(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling
) -> Int[Array, " B"]:
    """Sample the next token of every sequence by its key; the other sequences have no effect.

    The logit of a token that must not be sampled is -inf.
    """
    logits = logits.astype(jnp.float32)
    if sampling.temperature < _MIN_TEMPERATURE:
        return _argmax(logits)
    if 0 < sampling.top_k < logits.shape[1]:
        return _sample_top_k(logits, keys, sampling)
    return _sample_top_p(logits / sampling.temperature, keys, sampling.top_p)


def _argmax(logits: Float32[Array, "B V"]) -> Int[Array, " B"]:
    """Return the first token of maximal logit, in two passes: XLA's argmax is slow on CPUs."""
    ids = jnp.arange(logits.shape[1])[None]
    is_largest = logits >= logits.max(axis=1, keepdims=True)
    return jnp.where(is_largest, ids, logits.shape[1] - 1).min(axis=1)


def _sample_top_k(
    logits: Float32[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling
) -> Int[Array, " B"]:
    """Sample from the `top_k` largest logits; these are in order, so the nucleus is a prefix."""
    values, ids = _top_k(logits, sampling.top_k)
    weights = jnp.exp((values - values[:, :1]) / sampling.temperature)
    before = jnp.cumsum(weights, axis=1) - weights
    total = weights.sum(axis=1, keepdims=True)
    weights = jnp.where(before < sampling.top_p * total, weights, 0.0)
    target = jax.vmap(jax.random.uniform)(keys) * weights.sum(axis=1)
    index, _ = _invert_cumulative_sum(weights, target)
    return jnp.take_along_axis(ids, index[:, None], axis=1)[:, 0]


def _top_k(
    logits: Float32[Array, "B V"], k: int
) -> tuple[Float32[Array, "B k"], Int[Array, "B k"]]:
    """Return the `k` largest logits in order, and their token ids.

    All of them are in the `k` blocks with the largest maxima. This holds for equal logits, too:
    lower blocks come first, and these `k` blocks contain as many of the equal ones as needed.
    """
    batch, vocab = logits.shape
    size = max(1, round(math.sqrt(vocab / k)))
    blocks = _split_into_blocks(logits, size)
    _, top_blocks = jax.lax.top_k(blocks.max(axis=2), k)
    top_blocks = jnp.sort(top_blocks, axis=1)  # of equal logits, the lower id stays first
    candidates = jnp.take_along_axis(blocks, top_blocks[:, :, None], axis=1).reshape(batch, -1)
    values, indices = jax.lax.top_k(candidates, k)
    block = jnp.take_along_axis(top_blocks, indices // size, axis=1)
    return values, jnp.minimum(block * size + indices % size, vocab - 1)


def _split_into_blocks(
    logits: Float32[Array, "B V"], block_size: int
) -> Float32[Array, "B blocks size"]:
    batch, vocab = logits.shape
    padding = ((0, 0), (0, -vocab % block_size))
    return jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(batch, -1, block_size)


def _sample_top_p(
    logits: Float32[Array, "B V"], keys: Key[Array, " B"], top_p: float
) -> Int[Array, " B"]:
    """Sample from the nucleus by rejection, as the module's docstring explains."""
    batch, vocab = logits.shape
    logits = _split_into_blocks(logits - logits.max(axis=1, keepdims=True), _BLOCK_SIZE)
    weights = jnp.exp(logits)
    block_sums = weights.sum(axis=2)
    all_tokens = jnp.ones(logits.shape, bool)
    if top_p == 1:
        return _sample_block_token(weights, all_tokens, block_sums, keys)
    ids = jnp.arange(logits[0].size).reshape(1, *logits.shape[1:])
    nucleus_weight = top_p * block_sums.sum(axis=1)

    def draw(state):
        attempt, is_candidate, block_sums, token, is_rejected = state
        draw_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, attempt)
        drawn = _sample_block_token(weights, is_candidate, block_sums, draw_keys)
        token = jnp.where(is_rejected, drawn, token)
        logit = jnp.take_along_axis(logits.reshape(batch, -1), token[:, None], axis=1)[:, :, None]
        is_candidate = (logits > logit) | ((logits == logit) & (ids < token[:, None, None]))
        block_sums = jnp.where(is_candidate, weights, 0.0).sum(axis=2)
        # The first token of all is accepted, and so is NaN: the loop ends in any case.
        weight_before = block_sums.sum(axis=1)
        is_rejected = (weight_before >= nucleus_weight) & (weight_before > 0)
        return attempt + 1, is_candidate, block_sums, token, is_rejected

    no_token, is_rejected = jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool)
    start = (0, all_tokens, block_sums, no_token, is_rejected)
    *_, token, _ = jax.lax.while_loop(lambda state: state[-1].any(), draw, start)
    return jnp.minimum(token, vocab - 1)


def _sample_block_token(
    weights: Float32[Array, "B blocks block"],
    is_candidate: Bool[Array, "B blocks block"],
    block_sums: Float32[Array, "B blocks"],
    keys: Key[Array, " B"],
) -> Int[Array, " B"]:
    """Sample a candidate in proportion to its weight: first a block, then a token of it."""
    uniform = jax.vmap(jax.random.uniform)(keys)
    block, remainder = _invert_cumulative_sum(block_sums, uniform * block_sums.sum(axis=1))
    block_weights = jnp.where(is_candidate, weights, 0.0)
    block_weights = jnp.take_along_axis(block_weights, block[:, None, None], axis=1)[:, 0]
    index, _ = _invert_cumulative_sum(block_weights, remainder)
    return block * weights.shape[2] + index


def _invert_cumulative_sum(
    weights: Float32[Array, "B N"], cumulative_target: Float32[Array, " B"]
) -> tuple[Int[Array, " B"], Float32[Array, " B"]]:
    """Find the first index at which the cumulative sum of weights exceeds a target.

    An index of weight 0 is never returned. If rounding puts the target at or beyond the total, the
    index is the last one with a positive weight.

    Returns:
        The index, and the target minus the sum of the weights before it.
    """
    cumulative = jnp.cumsum(weights, axis=1)
    has_weight = weights > 0
    exceeds = has_weight & (cumulative > cumulative_target[:, None])
    last = weights.shape[1] - 1 - jnp.argmax(has_weight[:, ::-1], axis=1)
    index = jnp.where(exceeds.any(axis=1), jnp.argmax(exceeds, axis=1), last)
    before = jnp.take_along_axis(cumulative - weights, index[:, None], axis=1)[:, 0]
    return index.astype(jnp.int32), jnp.maximum(cumulative_target - before, 0.0)
