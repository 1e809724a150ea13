"""What a model says of rows, brought out of the wall: a few numbers a row, with their gradient."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxdistill.objectives.chunk import CHUNK_SIZE, map_shards, map_slices
from jaxdistill.objectives.compaction import compact, fold_chunks, scatter, write_chunk
from jaxdistill.objectives.logits import finish_logits, project, project_backward
from jaxdistill.types import LMHead, VocabTables

LogitsFunction = Callable[[Float32[Array, "R V"], Any, VocabTables | None], Float32[Array, "R *N"]]
"""`(logits, what is asked about, what the words are) -> answers` of a few rows; finite, with finite
gradients, for logits that are all equal."""


def position_values(
    function: LogitsFunction,
    hidden: Float[Array, "G R D"],
    columns: Any,
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> Float32[Array, "G R *N"]:
    """What a model answers of each row; 0 where it is not asked.

    Gradients reach the hidden states and the head. They are formed in a second walk, when it is
    known how much each answer counts: no logits are kept for it.

    Args:
        question: A function of its own for each kind of question, or it is compiled again.
        hidden: Of all rows, in as many groups as the batch has shards.
        about: What it is asked about, a pytree of columns `[G, R, ...]`.
        is_selected: Which rows; the others are never projected.
        head: Reads `hidden`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    return _position_values(function, chunk_size, hidden, lm_head, (columns, is_selected))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _position_values(
    function: LogitsFunction,
    chunk_size: int,
    hidden: Float[Array, "G R D"],
    lm_head: LMHead,
    inputs: tuple[Any, Array],
) -> Float32[Array, "G R *N"]:
    about, is_selected = inputs
    packed = compact(is_selected, (hidden, about), chunk_size)

    def answer(chunk: Any) -> Float32[Array, "R *N"]:
        hidden, about = chunk

        def of_piece(about: Any, scores: Array) -> Array:
            return function(finish_logits(scores, lm_head), about, lm_head.vocab_tables)

        found = map_slices(of_piece, about, project(hidden, lm_head))
        return found.reshape(-1, *found.shape[2:])

    def visit(column: Array, chunk: Any, start: Array) -> Array:
        return write_chunk(column, map_shards(answer, chunk), start)

    like = jax.eval_shape(partial(map_shards, answer), packed.columns)
    found = scatter(fold_chunks(packed, visit, jnp.zeros(like.shape, like.dtype)), packed)
    return jnp.where(is_selected.reshape(*is_selected.shape, *(1,) * (found.ndim - 2)), found, 0)


def _forward(
    function: LogitsFunction,
    chunk_size: int,
    hidden: Array,
    lm_head: LMHead,
    inputs: tuple[Any, Array],
) -> tuple[Array, Any]:
    return _position_values(function, chunk_size, hidden, lm_head, inputs), (
        hidden,
        lm_head,
        inputs,
    )


def _backward(
    function: LogitsFunction, chunk_size: int, residuals: Any, cotangent: Float32[Array, "G R *N"]
) -> tuple[Any, ...]:
    hidden, head, (about, is_selected) = residuals
    packed = compact(is_selected, (hidden, (about, cotangent)), chunk_size)

    def slopes(asked: Any, scores: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
        about, cotangent = asked
        _, pull = jax.vjp(
            lambda scores: function(finish_logits(scores, head), about, head.vocab_tables), scores
        )
        return pull(cotangent)[0]

    def differentiate(chunk: Any) -> Any:
        hidden, asked = chunk
        slope = map_slices(slopes, asked, project(hidden, head))
        return project_backward(slope.reshape(-1, slope.shape[-1]), hidden, head)

    def visit(carry: Any, chunk: Any, start: Array) -> Any:
        of_rows, added = map_shards(differentiate, chunk)
        return write_chunk(carry[0], of_rows, start), jax.tree.map(jnp.add, carry[1], added)

    # A total for each group until the end, as in the wall.
    leaves = head.matrix, head.bias
    zeros = jax.tree.map(lambda a: jnp.zeros((len(hidden), *a.shape), jnp.float32), leaves)
    of_rows, totals = fold_chunks(packed, visit, (jnp.zeros_like(packed.columns[0]), zeros))
    matrix, bias = jax.tree.map(lambda t, a: t.sum(axis=0).astype(a.dtype), totals, leaves)
    return (
        scatter(of_rows, packed),
        replace(head, matrix=matrix, bias=bias, vocab_tables=None),
        None,
    )


_position_values.defvjp(_forward, _backward)
