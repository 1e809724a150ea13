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
from jaxdistill.objectives.base import RowFunction, RowObjective
from jaxdistill.objectives.chunk import (
    CHUNK_ROWS,
    Heads,
    Measure,
    by_group,
    in_pieces,
    scores_of,
    values,
)
from jaxdistill.objectives.rows import Learned, Rows, Side, pack, restore, walk, write
from jaxdistill.objectives.unembed import num_words, project_gradients
from jaxdistill.types import Head

_Others = tuple[Side | None, Head | None, Array, Array, Array | None]
"""The teacher's rows and head, the student's labels, and both masks."""


def weighted_loss(
    objectives: tuple[RowObjective, ...],
    coefficients: Float32[Array, " objectives"],
    rows: Rows,
    student_head: Head,
    teacher_head: Head | None = None,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
    """The sum of all objectives over all rows, and the sum of each.

    Gradients reach what of the student's rows is `learned`, its head and the coefficients; never
    the teacher, and not through the separate sums.

    Args:
        objectives: The methods of the run; one walk serves them all.
        coefficients: What the values of each objective are multiplied by in the loss.
        rows: Student's and teacher's places, in as many groups as the batch has shards (`pair`).
        student_head: Reads `rows.student`.
        teacher_head: Reads `rows.teacher`; unused unless an objective needs it.
        chunk_rows: Rows of each group that are projected at a time.

    Returns:
        `Σ coefficients[i] · sums[i]`, and `sums[i] = Σ mask · (values of objective i)`, behind them
        the sums of what is only watched, in the order of the objectives.

    Raises:
        UserError: If the teacher's logits are needed and missing, or of another vocabulary.
    """
    teacher = rows.teacher
    if not any("teacher_logits" in objective.needs for objective in objectives):
        teacher = teacher_head = None
    elif teacher is None or teacher_head is None:
        raise UserError("objectives: these need the teacher's logits, but no teacher was given.")
    _check_vocabularies(objectives, student_head, teacher_head)
    measures = [Measure(one.row_values, one.compares) for one in objectives]
    watched = [Measure(f, one.compares) for one in objectives for f in one.watched.values()]
    coefficients = jnp.concatenate([coefficients, jnp.zeros(len(watched))])
    measures = (*measures, *watched)
    if rows.pair_mask is not None and all(one.compares for one in objectives):
        rows = dataclasses.replace(rows, mask=jnp.zeros_like(rows.mask))  # only pairs are compared
    others = teacher, teacher_head, rows.student.labels, rows.mask, rows.pair_mask
    others = jax.lax.stop_gradient(others)
    loss, sums = _loss(
        measures, chunk_rows, coefficients, rows.student.learned, student_head, others
    )
    return loss, jax.lax.stop_gradient(sums)


def row_statistics(
    statistics: Mapping[str, RowFunction],
    rows: Rows,
    student_head: Head,
    teacher_head: Head | None = None,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> dict[str, Float32[Array, "G R"]]:
    """A value for every row, and 0 for those that the mask leaves out. Forward only.

    Args:
        statistics: By name, functions like an objective's `row_values`: of the student's
            `RowLogits`, and the teacher's (None without a teacher).
        rows: As for `weighted_loss`, and so are the rest.
        student_head: Reads `rows.student`.
        teacher_head: Reads `rows.teacher`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    measures = [Measure(function) for function in statistics.values()]
    columns = walk_values(measures, (student_head, teacher_head), rows, chunk_rows)
    return dict(zip(statistics, columns, strict=True))


def walk_values(
    measures: Sequence[Measure], heads: Heads, rows: Rows, chunk_rows: int
) -> list[Float32[Array, "G R"]]:
    """What each function says of each row."""
    packed = pack(rows, chunk_rows)

    def measure(chunk: Rows) -> list[Float32[Array, " R"]]:
        found = in_pieces(partial(values, measures, heads), chunk, *scores_of(heads, chunk))
        return [column.reshape(-1) for column in found]

    def visit(columns: list[Array], chunk: Rows, start: Array) -> list[Array]:
        found = by_group(measure, chunk)
        return [write(column, one, start) for column, one in zip(columns, found, strict=True)]

    zeros = jnp.zeros_like(packed.rows.mask, jnp.float32)
    return [restore(column, packed) for column in walk(packed, visit, [zeros] * len(measures))]


def _forward(
    measures: tuple[Measure, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " measures"],
    learned: Learned,
    head: Head,
    others: _Others,
) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
    """The loss and the sums, where no gradient is asked for."""
    rows = _rows(learned, others)
    columns = walk_values(measures, (head, others[1]), rows, chunk_rows)
    sums = _sums(measures, rows, columns)
    return _weigh(coefficients, sums), sums


def _with_gradients(
    measures: tuple[Measure, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " measures"],
    learned: Learned,
    head: Head,
    others: _Others,
) -> tuple[Any, Any]:
    """`_forward` with the gradients formed on the way; they are all that is kept of it."""
    packed = pack(_rows(learned, others), chunk_rows)
    heads = head, others[1]

    def slopes(
        rows: Rows, student_scores: Float32[Array, "R V"], teacher_scores: Array | None
    ) -> tuple[tuple[Float32[Array, "R V"], Any], Float32[Array, " measures"]]:
        hidden, of_group = rows.student.learned

        def loss(scores: Float32[Array, "R V"], of_group: Any) -> tuple[Array, Array]:
            side = Side(hidden, rows.student.labels, *of_group)
            paired = dataclasses.replace(rows, student=side)
            sums = _sums(measures, rows, values(measures, heads, paired, scores, teacher_scores))
            return _weigh(coefficients, sums), sums

        differentiate = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return differentiate(student_scores, of_group)

    def differentiate(chunk: Rows) -> tuple[Any, Learned]:
        found, sums = in_pieces(slopes, chunk, *scores_of(heads, chunk))
        slope, group_gradient = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)
        hidden_gradient, of_head = project_gradients(slope, chunk.student.hidden, head)
        return (sums.sum(axis=0), of_head), (hidden_gradient, group_gradient)

    def visit(carry: tuple[Any, Learned], chunk: Rows, start: Array) -> tuple[Any, Learned]:
        added, of_rows = by_group(differentiate, chunk)
        written = jax.tree.map(lambda column, part: write(column, part, start), carry[1], of_rows)
        return jax.tree.map(jnp.add, carry[0], added), written

    # A total for each group until the end, so that devices need not talk at every chunk.
    leaves = (coefficients, (head.matrix, head.bias))
    zeros = jax.tree.map(lambda a: jnp.zeros((len(learned[0]), *a.shape), jnp.float32), leaves)
    nothing = jax.tree.map(jnp.zeros_like, packed.rows.student.learned)
    totals, gradients = walk(packed, visit, (zeros, nothing))
    sums, (matrix, bias) = jax.tree.map(lambda t, a: t.sum(axis=0).astype(a.dtype), totals, leaves)
    gradients = jax.tree.map(lambda column: restore(column, packed), gradients)
    head_gradient = dataclasses.replace(head, matrix=matrix, bias=bias, lexicon=None)
    return (_weigh(coefficients, sums), sums), (sums, gradients, head_gradient)


def _scale_gradients(
    measures: tuple[Measure, ...], chunk_rows: int, gradients: Any, cotangents: Any
) -> tuple[Any, ...]:
    loss_cotangent, _ = cotangents
    scaled = jax.tree.map(lambda leaf: (loss_cotangent * leaf).astype(leaf.dtype), gradients)
    return (*scaled, None)


_loss = jax.custom_vjp(_forward, nondiff_argnums=(0, 1))
_loss.defvjp(_with_gradients, _scale_gradients)


def _rows(learned: Learned, others: _Others) -> Rows:
    teacher, _, labels, mask, pair_mask = others
    hidden, of_group = learned
    return Rows(Side(hidden, labels, *of_group), teacher, mask, pair_mask)


def _sums(
    measures: Sequence[Measure], rows: Rows, columns: Sequence[Float32[Array, "*G R"]]
) -> Float32[Array, " measures"]:
    pairs = zip(measures, columns, strict=True)
    return jnp.stack([jnp.sum(measure.weight(rows) * column) for measure, column in pairs])


def _weigh(
    coefficients: Float32[Array, " measures"], sums: Float32[Array, " measures"]
) -> Float32[Array, ""]:
    # An objective that is only watched (coefficient 0) may be infinite without harm.
    return jnp.sum(jnp.where(coefficients == 0, 0, coefficients * sums))


def _check_vocabularies(
    objectives: Sequence[RowObjective], student_head: Head, teacher_head: Head | None
) -> None:
    if teacher_head is None or num_words(student_head) == num_words(teacher_head):
        return
    if any(objective.compares and objective.alignment is None for objective in objectives):
        raise UserError(
            f"vocabulary sizes differ (student {num_words(student_head)}, teacher "
            f"{num_words(teacher_head)}): rows can only be compared over one vocabulary. If the "
            "tokenizers are the same, set both heads' real vocabulary size to the tokenizer's."
        )
