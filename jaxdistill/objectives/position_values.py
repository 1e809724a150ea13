"""Values of one model per position, differentiable by a second loop over the chunks."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.objectives.chunk import map_shards, map_slices, sum_shards, zeros_per_shard
from jaxdistill.objectives.compaction import compact, fold_chunks, scatter, write_chunk
from jaxdistill.objectives.logits import finish_logits, project, project_backward
from jaxdistill.objectives.token_distribution import TokenDistribution
from jaxdistill.types import LMHead

DistributionFunction = Callable[[TokenDistribution], Float32[Array, "R *N"]]
"""Values and gradients must be finite for logits that are all equal. It must be a function of a
module or class, since jit caches by its identity."""


def _position_values(
    function: DistributionFunction,
    chunk_size: int,
    hidden: Float[Array, "G R D"],
    token_ids: Int[Array, "G R ..."],
    is_selected: Bool[Array, "G R"],
    lm_head: LMHead,
) -> Float32[Array, "G R *N"]:
    """Compute `function` of the distribution at each selected position; 0 elsewhere.

    Positions that are not selected are never projected. `token_ids` are the distribution's labels.

    Gradients reach the hidden states and the LM head. A second loop projects again and forms them,
    once the cotangent of each value is known: no logits are kept.
    """
    compacted = compact(is_selected, (hidden, token_ids), chunk_size)

    def chunk_values(chunk: tuple[Array, Array]) -> Float32[Array, "R *N"]:
        hidden, token_ids = chunk
        slice_values = partial(_evaluate, function, lm_head)
        return map_slices(slice_values, token_ids, project(hidden, lm_head))

    def update(column: Array, chunk: tuple[Array, Array], start: Array) -> Array:
        return write_chunk(column, map_shards(chunk_values, chunk), start)

    like = jax.eval_shape(partial(map_shards, chunk_values), compacted.columns)
    values = fold_chunks(compacted, update, jnp.zeros(like.shape, like.dtype))
    values = scatter(values, compacted)
    is_selected = is_selected.reshape(*is_selected.shape, *(1,) * (values.ndim - 2))
    return jnp.where(is_selected, values, 0)


def _evaluate(
    function: DistributionFunction, lm_head: LMHead, token_ids: Array, raw_logits: Array
) -> Array:
    logits = finish_logits(raw_logits, lm_head)
    return function(TokenDistribution(logits, token_ids, vocab_tables=lm_head.vocab_tables))


def _forward(function: DistributionFunction, chunk_size: int, *inputs: Any) -> tuple[Array, Any]:
    return _position_values(function, chunk_size, *inputs), inputs


def _backward(
    function: DistributionFunction,
    chunk_size: int,
    inputs: Any,
    cotangent: Float32[Array, "G R *N"],
) -> tuple[Array, None, None, LMHead]:
    hidden, token_ids, is_selected, lm_head = inputs
    compacted = compact(is_selected, (hidden, token_ids, cotangent), chunk_size)

    def slice_gradient(token_ids: Array, cotangent: Array, raw_logits: Array) -> Array:
        values = partial(_evaluate, function, lm_head, token_ids)
        return jax.vjp(values, raw_logits)[1](cotangent)[0]

    def differentiate(chunk: tuple[Array, Array, Array]) -> tuple[Array, LMHead]:
        hidden, token_ids, cotangent = chunk
        gradient = map_slices(slice_gradient, token_ids, cotangent, project(hidden, lm_head))
        return project_backward(gradient, hidden, lm_head)

    def update(carry: tuple[Array, Any], chunk: Any, start: Array) -> tuple[Array, Any]:
        hidden_gradient, lm_head_gradient = map_shards(differentiate, chunk)
        column = write_chunk(carry[0], hidden_gradient, start)
        return column, jax.tree.map(jnp.add, carry[1], lm_head_gradient)

    # One total per shard until the end, as in the chunked loss.
    like = replace(lm_head, vocab_tables=None)
    zeros = jnp.zeros_like(compacted.columns[0]), zeros_per_shard(like, len(hidden))
    column, totals = fold_chunks(compacted, update, zeros)
    # None is the cotangent of integers.
    return scatter(column, compacted), None, None, sum_shards(totals, like)


position_values = jax.custom_vjp(_position_values, nondiff_argnums=(0, 1))
position_values.defvjp(_forward, _backward)
