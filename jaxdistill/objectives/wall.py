"""The vocabulary wall: nothing outside it ever sees an array with a vocabulary axis.

One walk over chunks of rows serves all objectives of a run. A chunk is projected to logits (both
models), compared, reduced and forgotten. When a gradient is wanted it is formed in the same walk,
while the logits are there, so that nothing is stored for a backward pass and nothing is projected
twice. Rows that the mask leaves out are never projected at all.

Rows come in groups, one for each shard of the batch, and a walk moves along the rows inside the
groups, so that no row leaves its device. The heads may be sharded over the vocabulary.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from jaxdistill.errors import UserError
from jaxdistill.objectives.base import RowLogits, RowObjective
from jaxdistill.objectives.rows import Rows, pack, restore, walk, write
from jaxdistill.types import Head

RowFunction = Callable[[RowLogits, RowLogits | None, Int[Array, " R"]], Float32[Array, " R"]]
"""What `RowObjective.row_values` is: `(student, teacher if there is one, labels) -> values`."""

CHUNK_ROWS = 128


def logits(hidden: Float[Array, "*R D"], head: Head) -> Float32[Array, "*R V"]:
    """The logits of a few rows; -inf in columns that stand for no word."""
    return _finish(_project(hidden, head), head)


def weighted_loss(
    objectives: tuple[RowObjective, ...],
    coefficients: Float32[Array, " objectives"],
    student_hidden: Float[Array, "G R D"],
    student_head: Head,
    labels: Int[Array, "G R"],
    mask: Float[Array, "G R"],
    teacher_hidden: Float[Array, "G R E"] | None = None,
    teacher_head: Head | None = None,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Float32[Array, ""], Float32[Array, " objectives"]]:
    """The sum of all objectives over all rows, and the sum of each.

    Gradients reach the student's hidden states, its head and the coefficients; never the teacher,
    and not through the separate sums.

    Args:
        objectives: The methods of the run; one walk serves them all.
        coefficients: What the values of each objective are multiplied by in the loss.
        student_hidden: The rows, in `G` groups: as many as the batch has shards.
        student_head: Reads `student_hidden`.
        labels: The word that follows each row.
        mask: How much each row counts; a row of 0 is not walked.
        teacher_hidden: The same rows as the teacher sees them; unused unless an objective needs it.
        teacher_head: Reads `teacher_hidden`.
        chunk_rows: Rows of each group that are projected at a time.

    Returns:
        `Σ coefficients[i] · sums[i]`, and `sums[i] = Σ mask · (values of objective i)`.

    Raises:
        UserError: If the teacher's logits are needed and missing, or of another vocabulary.
    """
    if not any("teacher_logits" in objective.needs for objective in objectives):
        teacher_hidden = teacher_head = None
    elif teacher_hidden is None or teacher_head is None:
        raise UserError("objectives: these need the teacher's logits, but no teacher was given.")
    _check_vocabularies(student_head, teacher_head)
    fixed = jax.lax.stop_gradient((teacher_hidden, teacher_head, labels, mask))
    loss, sums = _loss(objectives, chunk_rows, coefficients, student_hidden, student_head, fixed)
    return loss, jax.lax.stop_gradient(sums)


def row_statistics(
    statistics: Mapping[str, RowFunction],
    student_hidden: Float[Array, "G R D"],
    student_head: Head,
    labels: Int[Array, "G R"],
    mask: Float[Array, "G R"],
    teacher_hidden: Float[Array, "G R E"] | None = None,
    teacher_head: Head | None = None,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> dict[str, Float32[Array, "G R"]]:
    """A value for every row, and 0 for those that the mask leaves out. Forward only.

    Args:
        statistics: By name, functions like an objective's `row_values`: of the student's
            `RowLogits`, the teacher's (None without a teacher) and the labels.
        student_hidden: As for `weighted_loss`, and so are the rest.
        student_head: Reads `student_hidden`.
        labels: The word that follows each row.
        mask: A row of 0 is not walked.
        teacher_hidden: The same rows as the teacher sees them, if there is one.
        teacher_head: Reads `teacher_hidden`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    _check_vocabularies(student_head, teacher_head)
    packed = pack(Rows(student_hidden, teacher_hidden, labels, mask), chunk_rows)

    def measure(chunk: Rows) -> list[Float32[Array, " R"]]:
        scores = _project(chunk.student_hidden, student_head)
        return _values(statistics.values(), scores, student_head, teacher_head, chunk)

    def visit(columns: list[Array], chunk: Rows, start: Array) -> list[Array]:
        return [write(c, v, start) for c, v in zip(columns, jax.vmap(measure)(chunk), strict=True)]

    zeros = jnp.zeros_like(packed.rows.mask, jnp.float32)
    columns = walk(packed, visit, [zeros] * len(statistics))
    return {name: restore(c, packed) for name, c in zip(statistics, columns, strict=True)}


def _values(
    functions: Iterable[RowFunction],
    scores: Float32[Array, "R V"],
    student_head: Head,
    teacher_head: Head | None,
    chunk: Rows,
) -> list[Float32[Array, " R"]]:
    """What each function says of each row that counts; 0 for the others."""
    student, teacher = _finish(scores, student_head), None
    if chunk.teacher_hidden is not None and teacher_head is not None:
        teacher = logits(chunk.teacher_hidden, teacher_head)
        # Of two paddings the narrower; one that is common to both heads is never cut, for a cut
        # through a vocabulary that is sharded would move it between devices.
        width = min(student.shape[-1], teacher.shape[-1])
        student, teacher = student[:, :width], RowLogits(teacher[:, :width])
    student = RowLogits(student)
    return [
        jnp.where(chunk.mask != 0, function(student, teacher, chunk.labels), 0)
        for function in functions
    ]


def _forward(
    objectives: tuple[RowObjective, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " objectives"],
    hidden: Float[Array, "G R D"],
    head: Head,
    fixed: tuple[Any, ...],
) -> tuple[Float32[Array, ""], Float32[Array, " objectives"]]:
    teacher_hidden, teacher_head, labels, mask = fixed
    functions = {str(i): objective.row_values for i, objective in enumerate(objectives)}
    values = row_statistics(
        functions, hidden, head, labels, mask, teacher_hidden, teacher_head, chunk_rows=chunk_rows
    )
    sums = jnp.stack([jnp.sum(mask * column) for column in values.values()])
    return _weigh(coefficients, sums), sums


def _forward_with_gradients(
    objectives: tuple[RowObjective, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " objectives"],
    hidden: Float[Array, "G R D"],
    head: Head,
    fixed: tuple[Any, ...],
) -> tuple[Any, Any]:
    """`_forward` with the gradients formed on the way; they are all that is kept of it."""
    teacher_hidden, teacher_head, labels, mask = fixed
    packed = pack(Rows(hidden, teacher_hidden, labels, mask), chunk_rows)
    functions = [objective.row_values for objective in objectives]

    def differentiate(chunk: Rows) -> tuple[Array, Array, Array, Array]:
        def loss(scores: Array) -> tuple[Array, Array]:
            values = _values(functions, scores, head, teacher_head, chunk)
            sums = jnp.stack([jnp.sum(chunk.mask * column) for column in values])
            return _weigh(coefficients, sums), sums

        scores = _project(chunk.student_hidden, head)
        slope, sums = jax.grad(loss, has_aux=True)(scores)
        bias_gradient = jnp.sum(slope, axis=0)
        slope = slope.astype(head.matrix.dtype)
        hidden_gradient = _matmul("rv,vd->rd", slope, head.matrix)
        matrix_gradient = _matmul("rv,rd->vd", slope, chunk.student_hidden)
        return sums, hidden_gradient, matrix_gradient, bias_gradient

    def visit(carry: tuple[Array, ...], chunk: Rows, start: Array) -> tuple[Array, ...]:
        sums, hidden_gradient, matrix_gradient, bias_gradient = jax.vmap(differentiate)(chunk)
        return (
            carry[0] + sums,
            write(carry[1], hidden_gradient, start),
            carry[2] + matrix_gradient,
            carry[3] + bias_gradient,
        )

    # One of each per group until the end, so that a chunk costs no reduction between devices.
    groups, (words, width) = hidden.shape[0], head.matrix.shape
    zeros = (
        jnp.zeros((groups, len(objectives))),
        jnp.zeros_like(packed.rows.student_hidden),
        jnp.zeros((groups, words, width)),
        jnp.zeros((groups, words)),
    )
    sums, hidden_gradient, matrix_gradient, bias_gradient = walk(packed, visit, zeros)
    sums = jnp.sum(sums, axis=0)
    head_gradient = dataclasses.replace(
        head,
        matrix=jnp.sum(matrix_gradient, axis=0).astype(head.matrix.dtype),
        bias=None if head.bias is None else jnp.sum(bias_gradient, axis=0).astype(head.bias.dtype),
    )
    gradients = (sums, restore(hidden_gradient, packed), head_gradient)
    return (_weigh(coefficients, sums), sums), gradients


def _scale_gradients(
    objectives: tuple[RowObjective, ...], chunk_rows: int, gradients: Any, cotangents: Any
) -> tuple[Any, ...]:
    loss_cotangent, _ = cotangents
    scaled = jax.tree.map(lambda leaf: (loss_cotangent * leaf).astype(leaf.dtype), gradients)
    return (*scaled, None)


_loss = jax.custom_vjp(_forward, nondiff_argnums=(0, 1))
_loss.defvjp(_forward_with_gradients, _scale_gradients)


def _weigh(
    coefficients: Float32[Array, " objectives"], sums: Float32[Array, " objectives"]
) -> Float32[Array, ""]:
    # An objective that is only watched (coefficient 0) may be infinite without harm.
    return jnp.sum(jnp.where(coefficients == 0, 0, coefficients * sums))


def _project(hidden: Float[Array, "*R D"], head: Head) -> Float32[Array, "*R V"]:
    return _matmul("...d,vd->...v", hidden, head.matrix)


def _matmul(formula: str, left: Array, right: Array) -> Float32[Array, "..."]:
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)


def _finish(scores: Float32[Array, "*R V"], head: Head) -> Float32[Array, "*R V"]:
    """From products to logits, as `Head` describes."""
    if head.bias is not None:
        scores = scores + head.bias.reshape((1,) * (scores.ndim - 1) + (-1,))
    scores = scores * head.scale
    if head.soft_cap is not None:
        scores = head.soft_cap * jnp.tanh(scores / head.soft_cap)
    if _num_words(head) == scores.shape[-1]:
        return scores
    is_word = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) < _num_words(head)
    return jnp.where(is_word, scores, -jnp.inf)


def _num_words(head: Head) -> int:
    return head.vocab_size or head.matrix.shape[0]


def _check_vocabularies(student_head: Head, teacher_head: Head | None) -> None:
    if teacher_head is not None and _num_words(student_head) != _num_words(teacher_head):
        raise UserError(
            f"vocabulary sizes differ (student {_num_words(student_head)}, teacher "
            f"{_num_words(teacher_head)}): rows can only be compared over one vocabulary. If the "
            "tokenizers are the same, set both heads' real vocabulary size to the tokenizer's."
        )
