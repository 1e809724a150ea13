"""The vocabulary wall: nothing outside it ever sees an array with a vocabulary axis.

One walk over chunks of rows serves all objectives of a run. A chunk is projected to logits (both
models), compared, reduced and forgotten. When a gradient is wanted it is formed in the same walk,
while the logits are there, so that nothing is stored for a backward pass and nothing is projected
twice. Rows that the mask leaves out are never projected at all.

Rows come in groups, one for each shard of the batch, and a walk moves along the rows inside the
groups, so that no row leaves its device. The heads may be sharded over the vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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

_Heads = tuple[Head, Head | None]
_Others = tuple[Array | None, Head | None, Array, Array]

CHUNK_ROWS = 256
"""Enough that adding up the head's gradient is small beside forming it; few enough that a chunk's
logits are small beside that gradient."""

_CPU_PIECE_ROWS = 16
"""How many rows of a chunk a CPU compares together: few enough for its caches. Comparing a whole
chunk at once makes a step of `tests/benchmarks/ours/kd_step.py` a tenth longer."""


def logits(hidden: Float[Array, "*R D"], head: Head) -> Float32[Array, "*R V"]:
    """The logits of a few rows; -inf in columns that stand for no word."""
    return _finish(_project(hidden, head), head)


def weighted_loss(
    objectives: tuple[RowObjective, ...],
    coefficients: Float32[Array, " objectives"],
    rows: Rows,
    student_head: Head,
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
        rows: Student's and teacher's places, in as many groups as the batch has shards (`pair`).
        student_head: Reads `rows.student_hidden`.
        teacher_head: Reads `rows.teacher_hidden`; unused unless an objective needs it.
        chunk_rows: Rows of each group that are projected at a time.

    Returns:
        `Σ coefficients[i] · sums[i]`, and `sums[i] = Σ mask · (values of objective i)`.

    Raises:
        UserError: If the teacher's logits are needed and missing, or of another vocabulary.
    """
    teacher_hidden = rows.teacher_hidden
    if not any("teacher_logits" in objective.needs for objective in objectives):
        teacher_hidden = teacher_head = None
    elif teacher_hidden is None or teacher_head is None:
        raise UserError("objectives: these need the teacher's logits, but no teacher was given.")
    _check_vocabularies(student_head, teacher_head)
    others = jax.lax.stop_gradient((teacher_hidden, teacher_head, rows.labels, rows.mask))
    loss, sums = _loss(
        objectives, chunk_rows, coefficients, rows.student_hidden, student_head, others
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
            `RowLogits`, the teacher's (None without a teacher) and the labels.
        rows: As for `weighted_loss`, and so are the rest.
        student_head: Reads `rows.student_hidden`.
        teacher_head: Reads `rows.teacher_hidden`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    _check_vocabularies(student_head, teacher_head)
    heads = student_head, teacher_head
    columns = _walk_values(tuple(statistics.values()), heads, rows, chunk_rows)
    return dict(zip(statistics, columns, strict=True))


def _walk_values(
    functions: Sequence[RowFunction], heads: _Heads, rows: Rows, chunk_rows: int
) -> list[Float32[Array, "G R"]]:
    """What each function says of each row."""
    packed = pack(rows, chunk_rows)

    def measure(chunk: Rows) -> list[Float32[Array, " R"]]:
        found = _in_pieces(partial(_values, functions, heads), chunk, *_scores(heads, chunk))
        return [column.reshape(-1) for column in found]

    def visit(columns: list[Array], chunk: Rows, start: Array) -> list[Array]:
        return [write(c, v, start) for c, v in zip(columns, jax.vmap(measure)(chunk), strict=True)]

    zeros = jnp.zeros_like(packed.rows.mask, jnp.float32)
    return [restore(column, packed) for column in walk(packed, visit, [zeros] * len(functions))]


def _scores(
    heads: _Heads, chunk: Rows
) -> tuple[Float32[Array, "R V"], Float32[Array, "R W"] | None]:
    """What both heads make of a chunk, before bias, scale and cap: two large products."""
    student, (student_head, teacher_head) = chunk.student_hidden, heads
    if chunk.teacher_hidden is None or teacher_head is None:
        return _project(student, student_head), None
    return _project(student, student_head), _project(chunk.teacher_hidden, teacher_head)


def _in_pieces(compare: Callable[..., Any], chunk: Rows, *scores: Array | None) -> Any:
    """`compare(rows, *scores)` for a few rows after the other; results get an axis for that."""
    num_rows = len(chunk.mask)
    on_cpu = jax.default_backend() == "cpu"
    size = math.gcd(num_rows, _CPU_PIECE_ROWS) if on_cpu else num_rows
    pieces = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (chunk, *scores))
    return jax.lax.map(lambda piece: compare(*piece), pieces)


def _values(
    functions: Sequence[RowFunction],
    heads: _Heads,
    rows: Rows,
    student_scores: Float32[Array, "R V"],
    teacher_scores: Float32[Array, "R W"] | None,
) -> list[Float32[Array, " R"]]:
    """What each function says of each row that counts; 0 for the others."""
    student_head, teacher_head = heads
    student, teacher = _finish(student_scores, student_head), None
    if teacher_scores is not None and teacher_head is not None:
        teacher = _finish(teacher_scores, teacher_head)
        # Of two paddings the narrower; one that is common to both heads is never cut, for a cut
        # through a vocabulary that is sharded would move it between devices.
        width = min(student.shape[-1], teacher.shape[-1])
        student, teacher = student[:, :width], RowLogits(teacher[:, :width])
    student = RowLogits(student)
    return [jnp.where(rows.mask != 0, f(student, teacher, rows.labels), 0) for f in functions]


def _forward(
    objectives: tuple[RowObjective, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " objectives"],
    hidden: Float[Array, "G R D"],
    head: Head,
    others: _Others,
) -> tuple[Float32[Array, ""], Float32[Array, " objectives"]]:
    """The loss and the sums, where no gradient is asked for."""
    teacher_hidden, teacher_head, labels, mask = others
    rows = Rows(hidden, teacher_hidden, labels, mask)
    functions = [objective.row_values for objective in objectives]
    columns = _walk_values(functions, (head, teacher_head), rows, chunk_rows)
    sums = jnp.stack([jnp.sum(mask * column) for column in columns])
    return _weigh(coefficients, sums), sums


def _forward_with_gradients(
    objectives: tuple[RowObjective, ...],
    chunk_rows: int,
    coefficients: Float32[Array, " objectives"],
    hidden: Float[Array, "G R D"],
    head: Head,
    others: _Others,
) -> tuple[Any, Any]:
    """`_forward` with the gradients formed on the way; they are all that is kept of it."""
    teacher_hidden, teacher_head, labels, mask = others
    packed = pack(Rows(hidden, teacher_hidden, labels, mask), chunk_rows)
    functions = [objective.row_values for objective in objectives]
    heads = head, teacher_head

    def slopes(
        rows: Rows, student_scores: Float32[Array, "R V"], teacher_scores: Array | None
    ) -> tuple[Float32[Array, "R V"], Float32[Array, " objectives"]]:
        def loss(scores: Float32[Array, "R V"]) -> tuple[Array, Array]:
            values = _values(functions, heads, rows, scores, teacher_scores)
            sums = jnp.stack([jnp.sum(rows.mask * column) for column in values])
            return _weigh(coefficients, sums), sums

        return jax.grad(loss, has_aux=True)(student_scores)

    def differentiate(chunk: Rows) -> tuple[Any, Float32[Array, "R D"]]:
        slope, sums = _in_pieces(slopes, chunk, *_scores(heads, chunk))
        slope = slope.reshape(-1, slope.shape[-1])
        bias_gradient = None if head.bias is None else jnp.sum(slope, axis=0)
        slope = slope.astype(head.matrix.dtype)
        matrix_gradient = _multiply("rv,rd->vd", slope, chunk.student_hidden)
        hidden_gradient = _multiply("rv,vd->rd", slope, head.matrix)
        return (sums.sum(axis=0), (matrix_gradient, bias_gradient)), hidden_gradient

    def visit(carry: tuple[Any, Array], chunk: Rows, start: Array) -> tuple[Any, Array]:
        added, hidden_gradient = jax.vmap(differentiate)(chunk)
        return jax.tree.map(jnp.add, carry[0], added), write(carry[1], hidden_gradient, start)

    # A total for each group until the end, so that devices need not talk at every chunk.
    leaves = (coefficients, (head.matrix, head.bias))
    zeros = jax.tree.map(lambda a: jnp.zeros((hidden.shape[0], *a.shape), jnp.float32), leaves)
    totals, hidden_gradient = walk(
        packed, visit, (zeros, jnp.zeros_like(packed.rows.student_hidden))
    )
    sums, (matrix, bias) = jax.tree.map(lambda t, a: t.sum(axis=0).astype(a.dtype), totals, leaves)
    head_gradient = dataclasses.replace(head, matrix=matrix, bias=bias)
    return (_weigh(coefficients, sums), sums), (
        sums,
        restore(hidden_gradient, packed),
        head_gradient,
    )


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
    return _multiply("...d,vd->...v", hidden, head.matrix)


def _multiply(formula: str, left: Array, right: Array) -> Float32[Array, "..."]:
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
