"""Which token comes next: greedy, temperature, top-k and top-p, without sorting a vocabulary.

Tokens are ordered by their logit, and equal logits by their id, so every cut is well defined: the
nucleus is the shortest beginning of that order whose probability reaches `top_p`.

The nucleus is sampled by rejection. A token drawn from the whole distribution belongs to it when
the tokens before it, in that order, have less than `top_p`: one pass tells. If not, neither it nor
anything after it belongs, so the next draw is made from what comes before it. Every draw covers
the nucleus, so what is accepted is distributed as if it alone had been kept; and every rejection
cuts the rest as a quicksort would. One or two passes are the rule where a sort takes seconds.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from jaxdistill.sampling.config import Sampling

_BLOCK_SIZE = 256
"""Words whose weights are summed together, so that no running sum is as long as a vocabulary."""


_MIN_TEMPERATURE = 1e-5
"""Below it the likeliest is chosen: it would be all the same, and logits would leave float32."""


def sample_next_token(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling
) -> Int[Array, " B"]:
    """The next token of every row.

    Args:
        logits: Of the next token; -inf for what may never be chosen.
        keys: Each row's own randomness: a row's token depends on nothing else.
        sampling: How to choose.
    """
    logits = logits.astype(jnp.float32)
    if sampling.temperature < _MIN_TEMPERATURE:
        return _argmax(logits)
    if 0 < sampling.top_k < logits.shape[1]:
        return _sample_top_k(logits, keys, sampling)
    return _sample_top_p(logits / sampling.temperature, keys, sampling.top_p)


def _argmax(logits: Float32[Array, "B V"]) -> Int[Array, " B"]:
    """The first token of the largest logit, in two passes: XLA's argmax is slow on CPU."""
    ids = jnp.arange(logits.shape[1])[None]
    is_largest = logits >= logits.max(axis=1, keepdims=True)
    return jnp.where(is_largest, ids, logits.shape[1] - 1).min(axis=1)


def _sample_top_k(
    logits: Float32[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling
) -> Int[Array, " B"]:
    """One of the `top_k` likeliest, which come in order: the nucleus of them is a prefix."""
    kept, ids = _top_k(logits, sampling.top_k)
    weights = jnp.exp((kept - kept[:, :1]) / sampling.temperature)
    before = jnp.cumsum(weights, axis=1) - weights
    total = weights.sum(axis=1, keepdims=True)
    weights = jnp.where(before < sampling.top_p * total, weights, 0.0)
    place, _ = _invert_cumulative_sum(
        weights, jax.vmap(jax.random.uniform)(keys) * weights.sum(axis=1)
    )
    return jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]


def _top_k(
    logits: Float32[Array, "B V"], k: int
) -> tuple[Float32[Array, "B k"], Int[Array, "B k"]]:
    """The `k` largest logits in order, and their ids.

    All of them are in the `k` blocks of the largest maxima. (So they are with ties, where lower
    blocks come first: as many of the tied as are wanted are in these blocks.)
    """
    batch, vocab = logits.shape
    size = max(1, round(math.sqrt(vocab / k)))
    blocks = _split_into_blocks(logits, size)
    _, best = jax.lax.top_k(blocks.max(axis=2), k)
    best = jnp.sort(best, axis=1)  # so that among equals the lower id is still the first
    candidates = jnp.take_along_axis(blocks, best[:, :, None], axis=1).reshape(batch, -1)
    values, places = jax.lax.top_k(candidates, k)
    block = jnp.take_along_axis(best, places // size, axis=1)
    return values, jnp.minimum(block * size + places % size, vocab - 1)


def _split_into_blocks(
    logits: Float32[Array, "B V"], block_size: int
) -> Float32[Array, "B blocks size"]:
    batch, vocab = logits.shape
    padding = ((0, 0), (0, -vocab % block_size))
    return jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(batch, -1, block_size)


def _sample_top_p(
    logits: Float32[Array, "B V"], keys: Key[Array, " B"], top_p: float
) -> Int[Array, " B"]:
    """One of the nucleus, by rejection (see the head of this file)."""
    batch, vocab = logits.shape
    logits = _split_into_blocks(logits - logits.max(axis=1, keepdims=True), _BLOCK_SIZE)
    weights = jnp.exp(logits)
    sums = weights.sum(axis=2)
    everything = jnp.ones(logits.shape, bool)
    if top_p == 1:
        return _sample_block_token(weights, everything, sums, keys)
    ids = jnp.arange(logits[0].size).reshape(1, *logits.shape[1:])
    enough = top_p * sums.sum(axis=1)

    def attempt(state):
        number, is_candidate, sums, token, is_rejected = state
        draw_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        drawn = _sample_block_token(weights, is_candidate, sums, draw_keys)
        token = jnp.where(is_rejected, drawn, token)
        logit = jnp.take_along_axis(logits.reshape(batch, -1), token[:, None], axis=1)[:, :, None]
        is_candidate = (logits > logit) | ((logits == logit) & (ids < token[:, None, None]))
        sums = jnp.where(is_candidate, weights, 0.0).sum(axis=2)
        # NaN is accepted, so that a model that has diverged does not loop for ever.
        return number + 1, is_candidate, sums, token, sums.sum(axis=1) >= enough

    start = (0, everything, sums, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))
    token = jax.lax.while_loop(lambda state: state[4].any(), attempt, start)[3]
    return jnp.minimum(token, vocab - 1)


def _sample_block_token(
    weights: Float32[Array, "B blocks block"],
    is_candidate: Bool[Array, "B blocks block"],
    block_sums: Float32[Array, "B blocks"],
    keys: Key[Array, " B"],
) -> Int[Array, " B"]:
    """A candidate with probability in proportion to its weight: a block first, then its word."""
    uniform = jax.vmap(jax.random.uniform)(keys)
    block, rest = _invert_cumulative_sum(block_sums, uniform * block_sums.sum(axis=1))
    inside = jnp.where(is_candidate, weights, 0.0)
    inside = jnp.take_along_axis(inside, block[:, None, None], axis=1)[:, 0]
    place, _ = _invert_cumulative_sum(inside, rest)
    return block * weights.shape[2] + place


def _invert_cumulative_sum(
    weights: Float32[Array, "B N"], cumulative_target: Float32[Array, " B"]
) -> tuple[Int[Array, " B"], Float32[Array, " B"]]:
    """Where the running sum of weights passes `target`, and how far into that weight.

    Rounding may put the target at or beyond the end, and a weight of 0 is never picked: then it
    is the last that has any weight.
    """
    through = jnp.cumsum(weights, axis=1)
    has_weight = weights > 0
    passes = has_weight & (through > cumulative_target[:, None])
    last = weights.shape[1] - 1 - jnp.argmax(has_weight[:, ::-1], axis=1)
    place = jnp.where(passes.any(axis=1), jnp.argmax(passes, axis=1), last)
    before = jnp.take_along_axis(through - weights, place[:, None], axis=1)[:, 0]
    return place.astype(jnp.int32), jnp.maximum(cumulative_target - before, 0.0)
