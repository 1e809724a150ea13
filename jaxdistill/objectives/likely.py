"""The words that a model finds likeliest over a whole answer, and how likely at each of its places.

Logits are divided by their standard deviation over the vocabulary first, so that a model which is
surer of everything is no other: the deviation takes the place of a temperature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.objectives.ask import ask
from jaxdistill.objectives.base import log_softmax
from jaxdistill.objectives.chunk import CHUNK_ROWS, by_group, in_pieces
from jaxdistill.objectives.rows import pack_where, walk
from jaxdistill.objectives.unembed import finish, num_words, project
from jaxdistill.types import Head, Lexicon

_ANSWERS = 16
"""How many answers of a group are added up at a time: each takes as much as a vocabulary."""

_LEAST_VARIANCE = 1e-8
"""Logits that are all equal have no deviation to be divided by."""


def likely_probs(
    hidden: Float[Array, "G R D"],
    answers: Int[Array, "G R"],
    is_asked: Bool[Array, "G R"],
    head: Head,
    *,
    k: int,
    chunk_rows: int = CHUNK_ROWS,
) -> Float32[Array, "G R N"]:
    """How likely each of an answer's `k` likeliest words is at each of its places.

    The likeliest first, over the answer: a column is the same word in all of its rows. Gradients
    reach the hidden states and the head, through the probabilities and not through the choice.

    Args:
        hidden: Of all rows.
        answers: The number of each row's answer among those of its group, climbing from 0.
        is_asked: Which rows are part of it; the others are 0.
        head: Reads `hidden`.
        k: How many words; fewer if the vocabulary has no more.
        chunk_rows: Rows of each group that are projected at a time.
    """
    fixed = jax.lax.stop_gradient((hidden, head))
    words = likely_words(fixed[0], answers, is_asked, fixed[1], k=k, chunk_rows=chunk_rows)
    found = ask(_chosen_log_probs, hidden, words, is_asked, head, chunk_rows=chunk_rows)
    return jnp.where(is_asked[..., None], jnp.exp(found), 0)


def likely_words(
    hidden: Float[Array, "G R D"],
    answers: Int[Array, "G R"],
    is_asked: Bool[Array, "G R"],
    head: Head,
    *,
    k: int,
    chunk_rows: int = CHUNK_ROWS,
) -> Int[Array, "G R N"]:
    """The words of which an answer's rows together say most; 0 in rows that are in none.

    A few answers after the other, and for each walk their rows alone: a batch of many answers
    takes no more memory than one of few, and no row is projected twice.
    """
    size = min(k, num_words(head))

    def look(turn: Int[Array, ""], words: Int[Array, "G R N"]) -> Int[Array, "G R N"]:
        places = answers - turn * _ANSWERS
        is_here = is_asked & (places >= 0) & (places < _ANSWERS)
        totals = _totals(hidden, jnp.where(is_here, places, -1), head, chunk_rows)
        found = jax.lax.top_k(totals, size)[1]
        taken = jax.vmap(lambda group, at: group[at])(found, jnp.where(is_here, places, 0))
        return jnp.where(is_here[..., None], taken, words)

    turns = jnp.max(answers) // _ANSWERS + 1
    return jax.lax.fori_loop(0, turns, look, jnp.zeros((*answers.shape, size), jnp.int32))


def _totals(
    hidden: Float[Array, "G R D"], places: Int[Array, "G R"], head: Head, chunk_rows: int
) -> Float32[Array, "G A V"]:
    """The probabilities of the rows that have each place, added up; -1 for rows of none."""
    packed = pack_where(places >= 0, (hidden, places + 1), chunk_rows)  # behind the last is 0

    def of_piece(places: Int[Array, " R"], scores: Float32[Array, "R V"]) -> Float32[Array, "A V"]:
        probs = jnp.exp(standardised_log_probs(finish(scores, head)))
        return jnp.matmul(jax.nn.one_hot(places - 1, _ANSWERS).T, probs, precision="highest")

    def of_chunk(chunk: Any) -> Float32[Array, "A V"]:
        hidden, places = chunk
        return in_pieces(of_piece, places, project(hidden, head)).sum(axis=0)

    def visit(totals: Array, chunk: Any, start: Array) -> Array:
        return totals + by_group(of_chunk, chunk)

    return walk(packed, visit, jnp.zeros((len(hidden), _ANSWERS, head.matrix.shape[0])))


def _chosen_log_probs(
    logits: Float32[Array, "R V"], words: Int[Array, "R N"], _: Lexicon | None
) -> Float32[Array, "R N"]:
    return jnp.take_along_axis(standardised_log_probs(logits), words, axis=-1)


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
    deviation = jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE))
    return log_softmax(jnp.where(is_word, known / deviation, -jnp.inf))
