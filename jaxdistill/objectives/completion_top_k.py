"""Likeliest tokens of whole completions, and their probabilities at each position.

Logits are divided by their standard deviation over the vocabulary first. It takes the place of a
temperature, so that how sure a model is overall makes no difference.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.objectives.chunk import map_shards, map_slices
from jaxdistill.objectives.compaction import compact, fold_chunks
from jaxdistill.objectives.logits import finish_logits, lm_head_vocab_size, project
from jaxdistill.objectives.position_values import position_values
from jaxdistill.objectives.token_distribution import TokenDistribution, log_softmax
from jaxdistill.types import LMHead

_COMPLETIONS_PER_PASS = 16
"""Completions of a shard that are summed at a time; each takes the memory of one vocabulary."""

_MIN_VARIANCE = 1e-8
"""Least variance of logits to divide by, for logits that are all equal."""


def completion_top_k_probs(
    hidden: Float[Array, "G R D"],
    completion_index: Int[Array, "G R"],
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
    *,
    k: int,
    chunk_size: int,
) -> Float32[Array, "G R N"]:
    """Compute the probabilities of each completion's k likeliest tokens at its positions.

    The likeliest token of the completion, by its summed probability, comes first: a column is one
    token at all its positions. Gradients reach the hidden states and the LM head through the
    probabilities, not the choice.

    `completion_index` is the index of each position's completion in its shard, ascending from 0.
    Positions that are not selected belong to none, and get 0.
    """
    fixed = jax.lax.stop_gradient((hidden, lm_head))
    size = min(k, lm_head_vocab_size(lm_head))

    # Each pass projects the positions of a few completions only: many completions take no more
    # memory than few, and no position is projected twice.
    def update(index: Int[Array, ""], token_ids: Int[Array, "G R N"]) -> Int[Array, "G R N"]:
        slots = completion_index - index * _COMPLETIONS_PER_PASS
        is_in_pass = is_selected & (slots >= 0) & (slots < _COMPLETIONS_PER_PASS)
        sums = _completion_prob_sums(*fixed, jnp.where(is_in_pass, slots, -1), chunk_size)
        top_tokens = jax.lax.top_k(sums, size)[1]
        gathered = jax.vmap(lambda shard, i: shard[i])(top_tokens, jnp.where(is_in_pass, slots, 0))
        return jnp.where(is_in_pass[..., None], gathered, token_ids)

    num_passes = jnp.max(completion_index) // _COMPLETIONS_PER_PASS + 1
    zeros = jnp.zeros((*completion_index.shape, size), jnp.int32)
    token_ids = jax.lax.fori_loop(0, num_passes, update, zeros)
    log_probs = position_values(
        _label_log_probs, chunk_size, hidden, token_ids, is_selected, lm_head
    )
    return jnp.where(is_selected[..., None], jnp.exp(log_probs), 0)


def _completion_prob_sums(
    hidden: Float[Array, "G R D"], lm_head: LMHead, slots: Int[Array, "G R"], chunk_size: int
) -> Float32[Array, "G A V"]:
    """Sum the probabilities of the positions in each slot; -1 is no slot."""
    compacted = compact(slots >= 0, (hidden, slots + 1), chunk_size)  # 0 after the last position

    def slice_sums(
        slots: Int[Array, " R"], raw_logits: Float32[Array, "R V"]
    ) -> Float32[Array, "A V"]:
        probs = jnp.exp(_standardised_log_probs(finish_logits(raw_logits, lm_head)))
        membership = jax.nn.one_hot(slots - 1, _COMPLETIONS_PER_PASS)
        return jnp.matmul(membership.T, probs, precision="highest")

    def chunk_sums(chunk: tuple[Array, Array]) -> Float32[Array, "A V"]:
        hidden, slots = chunk
        raw_logits = project(hidden, lm_head)
        return map_slices(slice_sums, slots, raw_logits, join=lambda sums: sums.sum(axis=0))

    def update(sums: Array, chunk: tuple[Array, Array], start: Array) -> Array:
        return sums + map_shards(chunk_sums, chunk)

    zeros = jnp.zeros((len(hidden), _COMPLETIONS_PER_PASS, lm_head.matrix.shape[0]))
    return fold_chunks(compacted, update, zeros)


def _label_log_probs(distribution: TokenDistribution) -> Float32[Array, "R N"]:
    log_probs = _standardised_log_probs(distribution.logits)
    return jnp.take_along_axis(log_probs, distribution.labels, axis=-1)


def _standardised_log_probs(logits: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    """Log-probabilities of logits divided by their sample standard deviation, in nats.

    Columns of padding do not count.
    """
    is_token = logits != -jnp.inf
    known = jnp.where(is_token, logits, 0)
    count = jnp.sum(is_token, axis=-1, keepdims=True)
    mean = jnp.sum(known, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.where(is_token, (known - mean) ** 2, 0)
    variance = jnp.sum(squares, axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    deviation = jnp.sqrt(jnp.maximum(variance, _MIN_VARIANCE))
    return log_softmax(jnp.where(is_token, known / deviation, -jnp.inf))
