"""The vocabulary wall: nothing outside it ever sees an array with a vocabulary axis.

One walk over chunks of rows serves all objectives of a run. A chunk is projected to logits (both
models), compared, reduced and forgotten. When a gradient is wanted it is formed in the same walk,
while the logits are there, so that nothing is stored for a backward pass and nothing is projected
twice. Rows that the mask leaves out are never projected at all.

Rows come in groups, one for each shard of the batch, and a walk moves along the rows inside the
groups, so that no row leaves its device. The heads may be sharded over the vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.errors import UserError
from jaxdistill.objectives.base import PositionFunction, PositionObjective
from jaxdistill.objectives.chunk import (
    CHUNK_SIZE,
    LMHeads,
    PositionTerm,
    map_shards,
    map_slices,
    project_chunk,
    term_values,
)
from jaxdistill.objectives.compaction import (
    AlignedPositions,
    DifferentiableInputs,
    ModelPositions,
    compact_positions,
    fold_chunks,
    scatter,
    write_chunk,
)
from jaxdistill.objectives.logits import lm_head_vocab_size, project_backward
from jaxdistill.types import LMHead

_FixedInputs = tuple[ModelPositions | None, LMHead | None, Array, Array, Array | None]
"""The teacher's rows and head, the student's labels, and both masks."""


def weighted_loss(
    objectives: tuple[PositionObjective, ...],
    coefficients: Float32[Array, " objectives"],
    positions: AlignedPositions,
    student_lm_head: LMHead,
    teacher_lm_head: LMHead | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
    """The sum of all objectives over all rows, and the sum of each.

    Gradients reach what of the student's rows is `learned`, its head and the coefficients; never
    the teacher, and not through the separate sums.

    Args:
        objectives: The methods of the run; one walk serves them all.
        coefficients: What the values of each objective are multiplied by in the loss.
        rows: Student's and teacher's places, in as many groups as the batch has shards (`pair`).
        student_lm_head: Reads `rows.student`.
        teacher_lm_head: Reads `rows.teacher`; unused unless an objective needs it.
        chunk_rows: Rows of each group that are projected at a time.

    Returns:
        `Σ coefficients[i] · sums[i]`, and `sums[i] = Σ mask · (values of objective i)`, behind them
        the sums of what is only watched, in the order of the objectives.

    Raises:
        UserError: If the teacher's logits are needed and missing, or of another vocabulary.
    """
    teacher = positions.teacher
    if not any("teacher_logits" in objective.needs for objective in objectives):
        teacher = teacher_lm_head = None
    elif teacher is None or teacher_lm_head is None:
        raise UserError("objectives: these need the teacher's logits, but no teacher was given.")
    _check_vocab_sizes(objectives, student_lm_head, teacher_lm_head)
    measures = [PositionTerm(one.values, one.needs_teacher) for one in objectives]
    watched = [
        PositionTerm(f, one.needs_teacher) for one in objectives for f in one.diagnostics.values()
    ]
    coefficients = jnp.concatenate([coefficients, jnp.zeros(len(watched))])
    measures = (*measures, *watched)
    if positions.span_weight is not None and all(one.needs_teacher for one in objectives):
        positions = dataclasses.replace(
            positions, mask=jnp.zeros_like(positions.loss_mask)
        )  # only pairs are compared
    others = (
        teacher,
        teacher_lm_head,
        positions.student.labels,
        positions.loss_mask,
        positions.span_weight,
    )
    others = jax.lax.stop_gradient(others)
    loss, sums = _loss(
        measures,
        chunk_size,
        coefficients,
        positions.student.differentiable,
        student_lm_head,
        others,
    )
    return loss, jax.lax.stop_gradient(sums)


def position_metrics(
    metrics: Mapping[str, PositionFunction],
    positions: AlignedPositions,
    student_lm_head: LMHead,
    teacher_lm_head: LMHead | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> dict[str, Float32[Array, "G R"]]:
    """A value for every row, and 0 for those that the mask leaves out. Forward only.

    Args:
        statistics: By name, functions like an objective's `values`: of the student's
            `TokenDistribution`, and the teacher's (None without a teacher).
        rows: As for `weighted_loss`, and so are the rest.
        student_lm_head: Reads `rows.student`.
        teacher_lm_head: Reads `rows.teacher`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    measures = [PositionTerm(function) for function in metrics.values()]
    columns = chunked_values(measures, (student_lm_head, teacher_lm_head), positions, chunk_size)
    return dict(zip(metrics, columns, strict=True))


def chunked_values(
    terms: Sequence[PositionTerm], lm_heads: LMHeads, positions: AlignedPositions, chunk_size: int
) -> list[Float32[Array, "G R"]]:
    """What each function says of each row."""
    packed = compact_positions(positions, chunk_size)

    def measure(chunk: AlignedPositions) -> list[Float32[Array, " R"]]:
        found = map_slices(
            partial(term_values, terms, lm_heads), chunk, *project_chunk(lm_heads, chunk)
        )
        return [column.reshape(-1) for column in found]

    def visit(columns: list[Array], chunk: AlignedPositions, start: Array) -> list[Array]:
        found = map_shards(measure, chunk)
        return [write_chunk(column, one, start) for column, one in zip(columns, found, strict=True)]

    zeros = jnp.zeros_like(packed.columns.loss_mask, jnp.float32)
    return [scatter(column, packed) for column in fold_chunks(packed, visit, [zeros] * len(terms))]


def _forward(
    terms: tuple[PositionTerm, ...],
    chunk_size: int,
    coefficients: Float32[Array, " measures"],
    differentiable: DifferentiableInputs,
    student_lm_head: LMHead,
    fixed: _FixedInputs,
) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
    """The loss and the sums, where no gradient is asked for."""
    rows = _join_positions(differentiable, fixed)
    columns = chunked_values(terms, (student_lm_head, fixed[1]), rows, chunk_size)
    sums = _term_sums(terms, rows, columns)
    return _weighted_total(coefficients, sums), sums


def _forward_with_gradients(
    terms: tuple[PositionTerm, ...],
    chunk_size: int,
    coefficients: Float32[Array, " measures"],
    differentiable: DifferentiableInputs,
    student_lm_head: LMHead,
    fixed: _FixedInputs,
) -> tuple[Any, Any]:
    """`_forward` with the gradients formed on the way; they are all that is kept of it."""
    packed = compact_positions(_join_positions(differentiable, fixed), chunk_size)
    heads = student_lm_head, fixed[1]

    def slopes(
        rows: AlignedPositions,
        student_raw_logits: Float32[Array, "R V"],
        teacher_raw_logits: Array | None,
    ) -> tuple[tuple[Float32[Array, "R V"], Any], Float32[Array, " terms"]]:
        hidden, of_group = rows.student.differentiable

        def loss(scores: Float32[Array, "R V"], of_group: Any) -> tuple[Array, Array]:
            side = ModelPositions(hidden, rows.student.labels, *of_group)
            paired = dataclasses.replace(rows, student=side)
            sums = _term_sums(
                terms, rows, term_values(terms, heads, paired, scores, teacher_raw_logits)
            )
            return _weighted_total(coefficients, sums), sums

        differentiate = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return differentiate(student_raw_logits, of_group)

    def differentiate(chunk: AlignedPositions) -> tuple[Any, DifferentiableInputs]:
        found, sums = map_slices(slopes, chunk, *project_chunk(heads, chunk))
        slope, group_gradient = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)
        hidden_gradient, of_head = project_backward(slope, chunk.student.hidden, student_lm_head)
        return (sums.sum(axis=0), of_head), (hidden_gradient, group_gradient)

    def visit(
        carry: tuple[Any, DifferentiableInputs], chunk: AlignedPositions, start: Array
    ) -> tuple[Any, DifferentiableInputs]:
        added, of_rows = map_shards(differentiate, chunk)
        written = jax.tree.map(
            lambda column, part: write_chunk(column, part, start), carry[1], of_rows
        )
        return jax.tree.map(jnp.add, carry[0], added), written

    # A total for each group until the end, so that devices need not talk at every chunk.
    leaves = (coefficients, (student_lm_head.matrix, student_lm_head.bias))
    zeros = jax.tree.map(
        lambda a: jnp.zeros((len(differentiable[0]), *a.shape), jnp.float32), leaves
    )
    nothing = jax.tree.map(jnp.zeros_like, packed.columns.student.differentiable)
    totals, gradients = fold_chunks(packed, visit, (zeros, nothing))
    sums, (matrix, bias) = jax.tree.map(lambda t, a: t.sum(axis=0).astype(a.dtype), totals, leaves)
    gradients = jax.tree.map(lambda column: scatter(column, packed), gradients)
    head_gradient = dataclasses.replace(
        student_lm_head, matrix=matrix, bias=bias, vocab_tables=None
    )
    return (_weighted_total(coefficients, sums), sums), (sums, gradients, head_gradient)


def _backward(
    terms: tuple[PositionTerm, ...], chunk_size: int, gradients: Any, cotangents: Any
) -> tuple[Any, ...]:
    loss_cotangent, _ = cotangents
    scaled = jax.tree.map(lambda leaf: (loss_cotangent * leaf).astype(leaf.dtype), gradients)
    return (*scaled, None)


_loss = jax.custom_vjp(_forward, nondiff_argnums=(0, 1))
_loss.defvjp(_forward_with_gradients, _backward)


def _join_positions(differentiable: DifferentiableInputs, fixed: _FixedInputs) -> AlignedPositions:
    teacher, _, labels, mask, span_weight = fixed
    hidden, of_group = differentiable
    return AlignedPositions(ModelPositions(hidden, labels, *of_group), teacher, mask, span_weight)


def _term_sums(
    terms: Sequence[PositionTerm],
    positions: AlignedPositions,
    values: Sequence[Float32[Array, "*G R"]],
) -> Float32[Array, " measures"]:
    pairs = zip(terms, values, strict=True)
    return jnp.stack(
        [jnp.sum(measure.position_weights(positions) * column) for measure, column in pairs]
    )


def _weighted_total(
    coefficients: Float32[Array, " measures"], sums: Float32[Array, " measures"]
) -> Float32[Array, ""]:
    # An objective that is only watched (coefficient 0) may be infinite without harm.
    return jnp.sum(jnp.where(coefficients == 0, 0, coefficients * sums))


def _check_vocab_sizes(
    objectives: Sequence[PositionObjective], student_lm_head: LMHead, teacher_lm_head: LMHead | None
) -> None:
    if teacher_lm_head is None or lm_head_vocab_size(student_lm_head) == lm_head_vocab_size(
        teacher_lm_head
    ):
        return
    if any(
        objective.needs_teacher and objective.alignment_rule is None for objective in objectives
    ):
        raise UserError(
            f"vocabulary sizes differ (student {lm_head_vocab_size(student_lm_head)}, teacher "
            f"{lm_head_vocab_size(teacher_lm_head)}): rows can only be compared over one vocabulary. If the "
            "tokenizers are the same, set both heads' real vocabulary size to the tokenizer's."
        )
