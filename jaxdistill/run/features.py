"""Features of both models at the same positions, for a calibration or a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill import data
from jaxdistill.errors import UserError
from jaxdistill.model import Model
from jaxdistill.objectives import OBJECTIVES, CombinedLoss
from jaxdistill.objectives.calibration import CalibrationData, CalibrationRequest
from jaxdistill.objectives.tapped_positions import TappedPositions
from jaxdistill.objectives.weights import teacher_batch
from jaxdistill.run import build
from jaxdistill.run.inspection import RunContext
from jaxdistill.sharding import batch_sharding, shard_batch
from jaxdistill.taps import Taps
from jaxdistill.track import Progress
from jaxdistill.types import Batch, Params

_MAX_POSITIONS = 4096
"""Positions that features are kept of: evenly spaced ones, if there are more."""


class Features(NamedTuple):
    """Hidden states of both models at the same positions, by layer."""

    student: dict[int, Float[np.ndarray, "N D"]]
    teacher: dict[int, Float[np.ndarray, "N X"]]


def collect_calibration_data(
    context: RunContext, teacher: Model, request: CalibrationRequest
) -> CalibrationData:
    """Compute what a calibration reads, on the first training examples.

    Raises:
        UserError: If a model gives features that are not finite.
    """
    student = build.initial_student(context.config, context.inspection, teacher)
    examples = context.prepared.train[: request.num_examples]
    own, other = collect_features(
        context, student, teacher, (request.student, request.teacher), examples
    )
    _check_finite(context, own, other)
    return CalibrationData(own, other, _relevance(context, teacher, request, examples))


def num_compared_positions(context: RunContext, examples: Sequence[data.Example]) -> int:
    """Count the positions of examples at which the inner layers of both models are compared."""
    count = jax.jit(lambda batch: jnp.sum(TappedPositions.from_batch(batch, "completion").weight))
    return sum(int(count(batch)) for batch in context.ordered_batches(examples))


def collect_features(
    context: RunContext,
    student: Model,
    teacher: Model,
    taps: tuple[Taps, Taps],
    examples: Sequence[data.Example],
) -> Features:
    """Compute tapped hidden states of both models at the compared positions of examples."""
    inspection = context.inspection
    teacher_signal = build.make_teacher_signal(inspection, taps[1])
    assert teacher_signal is not None, "there is a teacher"
    student_signal = partial(
        student.language_model.signal, vocab_size=inspection.vocab_size, taps=taps[0]
    )

    @jax.jit
    def compute(params: Params, teacher_params: Params, batch: Batch) -> tuple[Any, ...]:
        positions = TappedPositions.from_batch(batch, "completion")
        hidden = student_signal(params, batch).taps.hidden
        teacher_hidden = teacher_signal(teacher_params, batch).taps.hidden
        return (
            positions.weight != 0,
            {layer: positions.of_student(x) for layer, x in hidden.items()},
            {layer: positions.of_teacher(x) for layer, x in teacher_hidden.items()},
        )

    step = -(-sum(int(example.loss_mask.sum()) for example in examples) // _MAX_POSITIONS)
    parts = []
    for batch in _batches(context, examples, "hidden states"):
        is_compared, *sides = jax.device_get(compute(student.params, teacher.params, batch))
        chosen = np.argwhere(is_compared)[::step].T
        parts.append(jax.tree.map(lambda x: x[tuple(chosen)].astype(np.float32), sides))  # noqa: B023
    return Features(*jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts))


def _relevance(
    context: RunContext,
    teacher: Model,
    request: CalibrationRequest,
    examples: Sequence[data.Example],
) -> dict[int, Float[np.ndarray, " X"]]:
    """Average the relevance of the teacher's dimensions over scored positions."""
    if not request.relevance:
        return {}
    compute = jax.jit(partial(_relevance_sums, teacher, request.relevance))
    parts, weight = [], 0.0
    for batch in map(teacher_batch, _batches(context, examples, "relevance")):
        parts.append(jax.device_get(compute(teacher.params, batch)))
        weight += float(np.sum(batch.loss_mask))
    return jax.tree.map(lambda *arrays: np.sum(arrays, axis=0) / weight, *parts)


def _batches(
    context: RunContext, examples: Sequence[data.Example], description: str
) -> Iterator[Batch]:
    """Yield batches on the mesh, and show how many are done."""
    batches = list(context.ordered_batches(examples))
    sharding = batch_sharding(context.inspection.mesh)
    with Progress(description, len(batches)) as progress:
        for number, batch in enumerate(batches, start=1):
            yield shard_batch(batch, sharding)
            progress.advance_to(number, len(batches), tokens=int(np.sum(batch.segment_ids > 0)))


def _check_finite(context: RunContext, *sides: Mapping[int, np.ndarray]) -> None:
    models = context.config.student.model, context.config.teacher and context.config.teacher.model
    for side, model in zip(sides, models, strict=True):
        for layer, features in side.items():
            if not np.isfinite(features).all():
                raise UserError(
                    f"objectives: layer {layer} of {model} gives NaN or infinity on the "
                    "calibration examples. Its weights are damaged, or it needs more than 16 bits."
                )


def _relevance_sums(
    teacher: Model, layers: Sequence[int], params: Params, batch: Batch
) -> dict[int, Float[Array, " D"]]:
    """Sum |h · ∂(-log p(label))/∂h| over the scored positions, for each layer and dimension."""
    model, taps = teacher.language_model, Taps(hidden=tuple(layers))
    loss = CombinedLoss([OBJECTIVES["cross_entropy"]()])
    one = {"cross_entropy": jnp.float32(1)}
    shape = *batch.tokens.shape, model.widths.hidden
    zeros = {layer: jnp.zeros(shape, jnp.float32) for layer in layers}  # sums in float32

    def negative_log_likelihood(offsets: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
        signal = model.signal(
            params, batch, vocab_size=teacher.vocab_size, taps=taps, offsets=offsets
        )
        value, _ = loss({}, signal, None, batch, weights=one, denominators=one)
        return value, signal.taps.hidden

    gradients, hidden = jax.grad(negative_log_likelihood, has_aux=True)(zeros)
    is_scored = jnp.asarray(batch.loss_mask)[..., None] != 0
    return {
        layer: jnp.where(is_scored, jnp.abs(gradients[layer] * hidden[layer]), 0).sum((0, 1))
        for layer in layers
    }
