"""Features of both models on training examples, for a calibration before the first step."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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
from jaxdistill.types import Batch, Params

_MAX_POSITIONS = 4096
"""Positions that features are kept of: several for each dimension of a layer."""


def collect_features(
    context: RunContext, teacher: Model, request: CalibrationRequest
) -> CalibrationData:
    """Compute the features of both models at the compared positions of the first examples.

    Raises:
        UserError: If a model gives features that are not finite.
    """
    inspection = context.inspection
    student = build.initial_student(context.config, inspection, teacher)
    teacher_signal = build.make_teacher_signal(inspection, request.teacher)
    assert teacher_signal is not None, "there is a teacher"
    student_signal = partial(
        student.language_model.signal, vocab_size=inspection.vocab_size, taps=request.student
    )

    @jax.jit
    def features(params: Params, teacher_params: Params, batch: Batch) -> tuple[Any, ...]:
        positions = TappedPositions.from_batch(batch, "completion")
        hidden = student_signal(params, batch).taps.hidden
        teacher_hidden = teacher_signal(teacher_params, batch).taps.hidden
        return (
            positions.weight != 0,
            {layer: positions.of_student(x) for layer, x in hidden.items()},
            {layer: positions.of_teacher(x) for layer, x in teacher_hidden.items()},
        )

    relevance = jax.jit(partial(_relevance_sums, teacher, request.relevance))
    parts, sums, weight = [], [], 0.0
    for batch in _batches(context, request.num_examples):
        is_compared, *sides = jax.device_get(features(student.params, teacher.params, batch))
        parts.append(jax.tree.map(lambda x: x[is_compared].astype(np.float32), sides))  # noqa: B023
        if request.relevance:
            sums.append(jax.device_get(relevance(teacher.params, teacher_batch(batch))))
            weight += float(np.sum(teacher_batch(batch).loss_mask))
    own, other = jax.tree.map(lambda *arrays: _thin(np.concatenate(arrays)), *parts)
    _check_finite(context, own, other)
    total = {
        layer: np.sum([part[layer] for part in sums], axis=0) / weight
        for layer in request.relevance
    }
    return CalibrationData(own, other, total)


def _batches(context: RunContext, num_examples: int) -> Iterator[Batch]:
    sharding = batch_sharding(context.inspection.mesh)
    for batch in context.ordered_batches(context.prepared.train[:num_examples]):
        yield shard_batch(batch, sharding)


def _thin(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Keep evenly spaced positions, if there are too many."""
    if len(features) <= _MAX_POSITIONS:
        return features
    return features[np.linspace(0, len(features) - 1, _MAX_POSITIONS).astype(int)]


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
    shape, dtype = (*batch.tokens.shape, model.widths.hidden), params["embedding"].dtype
    zeros = {layer: jnp.zeros(shape, dtype) for layer in layers}

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
