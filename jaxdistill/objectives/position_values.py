"""Values of one model per position, differentiable by a second loop over the chunks."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.objectives.chunk import (
    CHUNK_SIZE,
    map_shards,
    map_slices,
    sum_shards,
    zeros_per_shard,
)
from jaxdistill.objectives.compaction import compact, fold_chunks, scatter, write_chunk
from jaxdistill.objectives.logits import (
    ProjectionGradients,
    finish_logits,
    project,
    project_backward,
)
from jaxdistill.types import LMHead, VocabTables

LogitsFunction = Callable[
    [Float32[Array, "R V"], Int[Array, "R ..."], VocabTables | None], Float32[Array, "R *N"]
]
"""`(logits, token_ids, vocab_tables) -> values` of a few positions. Values and gradients must be
finite for logits that are all equal."""


def position_values(
    function: LogitsFunction,
    hidden: Float[Array, "G R D"],
    token_ids: Int[Array, "G R ..."],
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> Float32[Array, "G R *N"]:
    """Compute `function` of the logits and token ids at each selected position; 0 elsewhere.

    Positions that are not selected are never projected. `token_ids` are labels or other tokens of
    interest. `function` must be a module-level function, since jit caches by its identity.

    Gradients reach the hidden states and the LM head. A second loop projects again and forms them,
    once the cotangent of each value is known: no logits are kept.
    """
    inputs = _Inputs(hidden, lm_head, token_ids, is_selected)
    return _position_values(function, chunk_size, inputs)


class _Inputs(NamedTuple):
    """Inputs of `position_values`, or their cotangents."""

    hidden: Float[Array, "G R D"]
    lm_head: LMHead
    token_ids: Int[Array, "G R ..."]
    is_selected: Bool[Array, "G R"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _position_values(function: LogitsFunction, chunk_size: int, inputs: _Inputs) -> Array:
    hidden, lm_head, token_ids, is_selected = inputs
    compacted = compact(is_selected, (hidden, token_ids), chunk_size)

    def slice_values(token_ids: Array, raw_logits: Array) -> Array:
        return function(finish_logits(raw_logits, lm_head), token_ids, lm_head.vocab_tables)

    def chunk_values(chunk: tuple[Array, Array]) -> Float32[Array, "R *N"]:
        hidden, token_ids = chunk
        values = map_slices(slice_values, token_ids, project(hidden, lm_head))
        return values.reshape(-1, *values.shape[2:])

    def update(column: Array, chunk: tuple[Array, Array], start: Array) -> Array:
        return write_chunk(column, map_shards(chunk_values, chunk), start)

    like = jax.eval_shape(partial(map_shards, chunk_values), compacted.columns)
    values = fold_chunks(compacted, update, jnp.zeros(like.shape, like.dtype))
    values = scatter(values, compacted)
    is_selected = is_selected.reshape(*is_selected.shape, *(1,) * (values.ndim - 2))
    return jnp.where(is_selected, values, 0)


def _forward(function: LogitsFunction, chunk_size: int, inputs: _Inputs) -> tuple[Any, _Inputs]:
    return _position_values(function, chunk_size, inputs), inputs


def _backward(
    function: LogitsFunction, chunk_size: int, inputs: _Inputs, cotangent: Float32[Array, "G R *N"]
) -> tuple[_Inputs]:
    hidden, lm_head, token_ids, is_selected = inputs
    compacted = compact(is_selected, (hidden, token_ids, cotangent), chunk_size)

    def slice_gradient(token_ids: Array, cotangent: Array, raw_logits: Array) -> Array:
        def values(raw_logits: Array) -> Array:
            return function(finish_logits(raw_logits, lm_head), token_ids, lm_head.vocab_tables)

        return jax.vjp(values, raw_logits)[1](cotangent)[0]

    def differentiate(chunk: tuple[Array, Array, Array]) -> ProjectionGradients:
        hidden, token_ids, cotangent = chunk
        gradient = map_slices(slice_gradient, token_ids, cotangent, project(hidden, lm_head))
        return project_backward(gradient.reshape(-1, gradient.shape[-1]), hidden, lm_head)

    def update(carry: tuple[Array, Any], chunk: Any, start: Array) -> tuple[Array, Any]:
        gradients = map_shards(differentiate, chunk)
        column = write_chunk(carry[0], gradients.hidden, start)
        return column, jax.tree.map(jnp.add, carry[1], gradients.lm_head)

    # One total per shard until the end, as in the chunked loss.
    like = replace(lm_head, vocab_tables=None)
    zeros = jnp.zeros_like(compacted.columns[0]), zeros_per_shard(like, len(hidden))
    column, totals = fold_chunks(compacted, update, zeros)
    # None is the cotangent of integers.
    return (_Inputs(scatter(column, compacted), sum_shards(totals, like), None, None),)  # pyright: ignore


_position_values.defvjp(_forward, _backward)
