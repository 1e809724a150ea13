"""Checks of float16 in a run, by the activations of its first examples.

Weights may fit into float16 (up to 65,504) and activations exceed it, as in Gemma 3. bfloat16 has
the range of float32 and needs no check.
"""

import jax

from jaxdistill import evals
from jaxdistill.errors import UserError
from jaxdistill.model import Model
from jaxdistill.run.inspection import RunContext
from jaxdistill.sharding import batch_sharding, replicated_sharding, shard_batch
from jaxdistill.types import Batch

_EXPORT_POSITIONS = 64
"""First positions of each sequence that a student is tried on: float16 is slow on a CPU."""


def check_teacher_dtype(context: RunContext, teacher: Model | None) -> None:
    """Check that the teacher's activations are finite in `teacher.dtype`.

    Raises:
        UserError: They are not.
    """
    config = context.config.teacher
    if teacher is None or config is None or config.dtype != "float16":
        return
    batch = _first_batch(context)
    view = batch if batch.alignment is None else batch.alignment.teacher
    if (source := _find_overflow(context, teacher, view)) is not None:
        raise UserError(
            f"teacher.dtype: {config.model} overflows float16: its weights are finite, and its "
            f"hidden states on {source} are not. Set `teacher.dtype=bfloat16` or `float32`."
        )


def check_export_dtype(context: RunContext, student: Model) -> None:
    """Check that the student's activations are finite in `student.export_dtype`.

    Raises:
        UserError: They are not.
    """
    if context.config.student.export_dtype != "float16":
        return
    batch = jax.tree.map(lambda array: array[:, :_EXPORT_POSITIONS], _first_batch(context))
    if (source := _find_overflow(context, student.astype("float16"), batch)) is not None:
        raise UserError(
            "student.export_dtype: the student overflows float16: its weights are finite, and its "
            f"hidden states on {source} are not. Set `student.export_dtype=bfloat16` or "
            "`float32`; the same command with it goes on from the last checkpoint, if there is one."
        )


def _first_batch(context: RunContext) -> Batch:
    examples = context.prepared.train[: context.config.evaluation.batch_size]
    return next(context.ordered_batches(examples))


def _find_overflow(context: RunContext, model: Model, batch: Batch) -> str | None:
    """Return the source of the first row whose hidden states overflow; None for no row."""
    mesh = context.inspection.mesh
    sharded = shard_batch(batch, batch_sharding(mesh))
    is_bad = evals.overflows(
        model.language_model, model.params, sharded, out_sharding=replicated_sharding(mesh)
    )
    return context.prepared.row_source(int(batch.example_ids[is_bad][0])) if is_bad.any() else None
