"""The words that a model finds likeliest over a whole answer, and how likely at each of its places.

Logits are divided by their standard deviation over the vocabulary first, so that a model which is
surer of everything is no other: the deviation takes the place of a temperature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.objectives.base import log_softmax
from jaxdistill.objectives.chunk import CHUNK_SIZE, map_shards, map_slices
from jaxdistill.objectives.compaction import compact, fold_chunks
from jaxdistill.objectives.logits import finish_logits, lm_head_vocab_size, project
from jaxdistill.objectives.position_values import position_values
from jaxdistill.types import LMHead, VocabTables

_COMPLETIONS_PER_PASS = 16
"""How many answers of a group are added up at a time: each takes as much as a vocabulary."""

_MIN_VARIANCE = 1e-8
"""Logits that are all equal have no deviation to be divided by."""


def sequence_top_k_probs(
    hidden: Float[Array, "G R D"],
    completion_index: Int[Array, "G R"],
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
    *,
    k: int,
    chunk_size: int = CHUNK_SIZE,
) -> Float32[Array, "G R N"]:
    """How likely each of an answer's `k` likeliest words is at each of its places.

    The likeliest first, over the answer: a column is the same word in all of its rows. Gradients
    reach the hidden states and the head, through the probabilities and not through the choice.

    Args:
        hidden: Of all rows.
        answers: The number of each row's answer among those of its group, climbing from 0.
        is_selected: Which rows are part of it; the others are 0.
        head: Reads `hidden`.
        k: How many words; fewer if the vocabulary has no more.
        chunk_rows: Rows of each group that are projected at a time.
    """
    fixed = jax.lax.stop_gradient((hidden, lm_head))
    words = sequence_top_k_tokens(
        fixed[0], completion_index, is_selected, fixed[1], k=k, chunk_size=chunk_size
    )
    found = position_values(
        _chosen_log_probs, hidden, words, is_selected, lm_head, chunk_size=chunk_size
    )
    return jnp.where(is_selected[..., None], jnp.exp(found), 0)


def sequence_top_k_tokens(
    hidden: Float[Array, "G R D"],
    completion_index: Int[Array, "G R"],
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
    *,
    k: int,
    chunk_size: int = CHUNK_SIZE,
) -> Int[Array, "G R N"]:
    """The words of which an answer's rows together say most; 0 in rows that are in none.

    A few answers after the other, and for each walk their rows alone: a batch of many answers
    takes no more memory than one of few, and no row is projected twice.
    """
    size = min(k, lm_head_vocab_size(lm_head))

    def look(turn: Int[Array, ""], words: Int[Array, "G R N"]) -> Int[Array, "G R N"]:
        places = completion_index - turn * _COMPLETIONS_PER_PASS
        is_here = is_selected & (places >= 0) & (places < _COMPLETIONS_PER_PASS)
        totals = _completion_prob_sums(hidden, jnp.where(is_here, places, -1), lm_head, chunk_size)
        found = jax.lax.top_k(totals, size)[1]
        taken = jax.vmap(lambda group, at: group[at])(found, jnp.where(is_here, places, 0))
        return jnp.where(is_here[..., None], taken, words)

    turns = jnp.max(completion_index) // _COMPLETIONS_PER_PASS + 1
    return jax.lax.fori_loop(0, turns, look, jnp.zeros((*completion_index.shape, size), jnp.int32))


def _completion_prob_sums(
    hidden: Float[Array, "G R D"],
    completion_index: Int[Array, "G R"],
    lm_head: LMHead,
    chunk_size: int,
) -> Float32[Array, "G A V"]:
    """The probabilities of the rows that have each place, added up; -1 for rows of none."""
    packed = compact(
        completion_index >= 0, (hidden, completion_index + 1), chunk_size
    )  # behind the last is 0

    def of_piece(places: Int[Array, " R"], scores: Float32[Array, "R V"]) -> Float32[Array, "A V"]:
        probs = jnp.exp(standardised_log_probs(finish_logits(scores, lm_head)))
        return jnp.matmul(
            jax.nn.one_hot(places - 1, _COMPLETIONS_PER_PASS).T, probs, precision="highest"
        )

    def of_chunk(chunk: Any) -> Float32[Array, "A V"]:
        hidden, places = chunk
        return map_slices(of_piece, places, project(hidden, lm_head)).sum(axis=0)

    def visit(totals: Array, chunk: Any, start: Array) -> Array:
        return totals + map_shards(of_chunk, chunk)

    return fold_chunks(
        packed, visit, jnp.zeros((len(hidden), _COMPLETIONS_PER_PASS, lm_head.matrix.shape[0]))
    )


def _chosen_log_probs(
    logits: Float32[Array, "R V"], token_ids: Int[Array, "R N"], _: VocabTables | None
) -> Float32[Array, "R N"]:
    return jnp.take_along_axis(standardised_log_probs(logits), token_ids, axis=-1)


def standardised_log_probs(logits: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    """Log-probabilities of logits that are divided by their standard deviation, in nats.

    The deviation is that of a sample, of the words that there are.
    """
    is_word = logits != -jnp.inf
    known = jnp.where(is_word, logits, 0)
    counts = jnp.sum(is_word, axis=-1, keepdims=True)
    mean = jnp.sum(known, axis=-1, keepdims=True) / jnp.maximum(counts, 1)
    squares = jnp.where(is_word, (known - mean) ** 2, 0)
    variance = jnp.sum(squares, axis=-1, keepdims=True) / jnp.maximum(counts - 1, 1)
    deviation = jnp.sqrt(jnp.maximum(variance, _MIN_VARIANCE))
    return log_softmax(jnp.where(is_word, known / deviation, -jnp.inf))
