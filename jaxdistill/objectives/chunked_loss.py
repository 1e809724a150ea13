"""The chunked loss: objectives over a vocabulary without an array of positions × vocabulary.

A loop over chunks of positions serves all position objectives of a run. It projects a chunk to the
logits of both models, compares them, reduces the values, and forgets the logits. Where a gradient
is needed, the same loop forms it (a fused linear loss): nothing is stored for a backward pass, or
projected twice. Positions with no weight are never projected.

Positions are grouped by shard of the batch, and chunks are cut inside of the shards, so no position
leaves its device. LM heads may be sharded over the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.errors import UserError
from jaxdistill.objectives.base import PositionFunction, PositionObjective
from jaxdistill.objectives.chunk import (
    CHUNK_SIZE,
    ChunkTerm,
    LMHeads,
    RawLogits,
    flatten_slices,
    map_shards,
    map_slices,
    project_chunk,
    sum_shards,
    term_values,
    zeros_per_shard,
)
from jaxdistill.objectives.compaction import compact, fold_chunks, scatter, write_chunk
from jaxdistill.objectives.logits import lm_head_vocab_size, project_backward
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions, SpanContext
from jaxdistill.types import LMHead


class _DifferentiableInputs(NamedTuple):
    """Inputs of the loss that a gradient reaches, or their gradients: two totals, two columns."""

    coefficients: Float32[Array, "*G terms"]
    student_lm_head: LMHead
    hidden: Float[Array, "*G R D"]
    span_context: SpanContext


def weighted_loss(
    objectives: tuple[PositionObjective, ...],
    coefficients: Float32[Array, " objectives"],
    positions: AlignedPositions,
    student_lm_head: LMHead,
    teacher_lm_head: LMHead | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[Float32[Array, ""], Float32[Array, " terms"]]:
    """Compute the weighted sum of all objectives over all positions, and the sum of each.

    Gradients reach the student's hidden states, span context and LM head, and the coefficients;
    never the teacher, and never through the separate sums.

    Args:
        objectives: Position objectives, which share one loop.
        coefficients: Factor of each objective in the loss.
        positions: Positions of both models, grouped by shard (`align_batch`).
        student_lm_head: LM head of the student.
        teacher_lm_head: LM head of the teacher; unused unless an objective needs it.
        chunk_size: Positions of each shard that are projected at a time.

    Returns:
        `Σ coefficients[i] · sums[i]`, and `sums[i] = Σ weight · (values of objective i)`, followed
        by the sums of all diagnostics, in the order of the objectives.

    Raises:
        UserError: The teacher's logits are needed and missing, or of another vocabulary.
    """
    teacher = positions.teacher
    if not any(objective.needs_teacher for objective in objectives):
        teacher = teacher_lm_head = None
    elif teacher is None or teacher_lm_head is None:
        raise UserError("objectives: these need the teacher's logits, but no teacher was given.")
    _check_vocab_sizes(objectives, student_lm_head, teacher_lm_head)
    terms = [ChunkTerm(one.values, one) for one in objectives]
    diagnostics = [ChunkTerm(f, one) for one in objectives for f in one.diagnostics.values()]
    coefficients = jnp.concatenate([coefficients, jnp.zeros(len(diagnostics))])
    if positions.span_weight is not None and all(one.needs_teacher for one in objectives):
        # No term is about the student alone: positions outside of spans need no projection.
        positions = replace(positions, loss_mask=jnp.zeros_like(positions.loss_mask))
    student = positions.student
    inputs = _DifferentiableInputs(
        coefficients, student_lm_head, student.hidden, student.span_context
    )
    fixed = jax.lax.stop_gradient((replace(positions, teacher=teacher), teacher_lm_head))
    loss, sums = _loss((*terms, *diagnostics), chunk_size, inputs, *fixed)
    return loss, jax.lax.stop_gradient(sums)


def position_metrics(
    metrics: Mapping[str, PositionFunction],
    positions: AlignedPositions,
    student_lm_head: LMHead,
    teacher_lm_head: LMHead | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> dict[str, Float32[Array, "G R"]]:
    """Compute metrics at each position, without gradients; 0 where the loss mask is 0.

    `metrics` are functions like `PositionObjective.values`; the rest is as for `weighted_loss`.
    """
    terms = [ChunkTerm(function) for function in metrics.values()]
    lm_heads = LMHeads(student_lm_head, teacher_lm_head)
    return dict(zip(metrics, chunked_values(terms, lm_heads, positions, chunk_size), strict=True))


def chunked_values(
    terms: Sequence[ChunkTerm], lm_heads: LMHeads, positions: AlignedPositions, chunk_size: int
) -> list[Float32[Array, "G R"]]:
    """Compute the values of each term at each position."""
    compacted = compact(positions.is_scored, positions, chunk_size)

    def chunk_values(chunk: AlignedPositions) -> list[Float32[Array, " R"]]:
        slice_values = partial(term_values, terms, lm_heads)
        return map_slices(slice_values, chunk, project_chunk(lm_heads, chunk))

    def update(columns: list[Array], chunk: AlignedPositions, start: Array) -> list[Array]:
        values = map_shards(chunk_values, chunk)
        return [write_chunk(*pair, start) for pair in zip(columns, values, strict=True)]

    zeros = jnp.zeros_like(compacted.columns.loss_mask, jnp.float32)
    columns = fold_chunks(compacted, update, [zeros] * len(terms))
    return [scatter(column, compacted) for column in columns]


def _forward(
    terms: tuple[ChunkTerm, ...],
    chunk_size: int,
    inputs: _DifferentiableInputs,
    positions: AlignedPositions,
    teacher_lm_head: LMHead | None,
) -> tuple[Float32[Array, ""], Float32[Array, " terms"]]:
    """Compute the loss and the sums, where no gradient is needed."""
    positions = _join(positions, inputs)
    lm_heads = LMHeads(inputs.student_lm_head, teacher_lm_head)
    sums = _term_sums(terms, positions, chunked_values(terms, lm_heads, positions, chunk_size))
    return _weighted_total(inputs.coefficients, sums), sums


def _forward_with_gradients(
    terms: tuple[ChunkTerm, ...],
    chunk_size: int,
    inputs: _DifferentiableInputs,
    positions: AlignedPositions,
    teacher_lm_head: LMHead | None,
) -> tuple[Any, _DifferentiableInputs]:
    """Compute `_forward` and its gradients, which are the only residuals."""
    positions = _join(positions, inputs)
    compacted = compact(positions.is_scored, positions, chunk_size)
    coefficients, lm_heads = inputs.coefficients, LMHeads(inputs.student_lm_head, teacher_lm_head)

    def differentiate_slice(positions: AlignedPositions, raw_logits: RawLogits) -> Any:
        def loss(student_raw_logits: Array, span_context: SpanContext) -> tuple[Array, Array]:
            student = replace(positions.student, span_context=span_context)
            logits = raw_logits._replace(student=student_raw_logits)
            values = term_values(terms, lm_heads, replace(positions, student=student), logits)
            sums = _term_sums(terms, positions, values)
            return _weighted_total(coefficients, sums), sums

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(raw_logits.student, positions.student.span_context)

    def differentiate(chunk: AlignedPositions) -> _DifferentiableInputs:
        def join(results: Any) -> Any:
            gradients, sums = results
            return flatten_slices(gradients), sums.sum(axis=0)

        (raw_logits, span_context), sums = map_slices(
            differentiate_slice, chunk, project_chunk(lm_heads, chunk), join=join
        )
        hidden, lm_head = project_backward(raw_logits, chunk.student.hidden, lm_heads.student)
        return _DifferentiableInputs(sums, lm_head, hidden, span_context)

    def update(
        carry: _DifferentiableInputs, chunk: AlignedPositions, start: Array
    ) -> _DifferentiableInputs:
        gradients = map_shards(differentiate, chunk)
        totals = jax.tree.map(jnp.add, carry[:2], gradients[:2])
        columns = jax.tree.map(partial(write_chunk, start=start), carry[2:], gradients[2:])
        return _DifferentiableInputs(*totals, *columns)

    # One total per shard until the end, so that devices do not communicate at every chunk.
    like = coefficients, replace(lm_heads.student, vocab_tables=None)
    columns = compacted.columns.student.hidden, compacted.columns.student.span_context
    totals = zeros_per_shard(like, len(inputs.hidden))
    zeros = _DifferentiableInputs(*totals, *jax.tree.map(jnp.zeros_like, columns))
    result = fold_chunks(compacted, update, zeros)
    sums, lm_head = sum_shards(result[:2], like)
    columns = jax.tree.map(partial(scatter, compacted=compacted), result[2:])
    gradients = _DifferentiableInputs(sums, lm_head, *columns)
    return (_weighted_total(coefficients, sums), sums), gradients


def _backward(
    terms: tuple[ChunkTerm, ...],
    chunk_size: int,
    gradients: _DifferentiableInputs,
    cotangents: tuple[Array, Array],
) -> tuple[_DifferentiableInputs, None, None]:
    loss_cotangent, _ = cotangents
    scaled = jax.tree.map(lambda leaf: (loss_cotangent * leaf).astype(leaf.dtype), gradients)
    return scaled, None, None


_loss = jax.custom_vjp(_forward, nondiff_argnums=(0, 1))
_loss.defvjp(_forward_with_gradients, _backward)


def _join(positions: AlignedPositions, inputs: _DifferentiableInputs) -> AlignedPositions:
    """Return the positions with the student's differentiable inputs in place."""
    student = ModelPositions(inputs.hidden, positions.student.labels, inputs.span_context)
    return replace(positions, student=student)


def _term_sums(
    terms: Sequence[ChunkTerm],
    positions: AlignedPositions,
    values: Sequence[Float32[Array, "*G R"]],
) -> Float32[Array, " terms"]:
    pairs = zip(terms, values, strict=True)
    return jnp.stack([jnp.sum(term.position_weights(positions) * column) for term, column in pairs])


def _weighted_total(
    coefficients: Float32[Array, " terms"], sums: Float32[Array, " terms"]
) -> Float32[Array, ""]:
    # A diagnostic or an objective of weight 0 may be infinite without harm.
    return jnp.sum(jnp.where(coefficients == 0, 0, coefficients * sums))


def _check_vocab_sizes(
    objectives: Sequence[PositionObjective], student_lm_head: LMHead, teacher_lm_head: LMHead | None
) -> None:
    if teacher_lm_head is None:
        return
    sizes = lm_head_vocab_size(student_lm_head), lm_head_vocab_size(teacher_lm_head)
    if sizes[0] != sizes[1] and any(
        objective.needs_teacher and objective.alignment_rule is None for objective in objectives
    ):
        raise UserError(
            f"vocabulary sizes differ (student {sizes[0]}, teacher {sizes[1]}): these objectives "
            "compare tokens of one vocabulary. If the tokenizers are the same, set the "
            "`vocab_size` of both LM heads to the tokenizer's."
        )
