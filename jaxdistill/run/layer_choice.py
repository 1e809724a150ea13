"""Layers of a student that are chosen by importance, once per run folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float

from jaxdistill import data
from jaxdistill.errors import UserError
from jaxdistill.model import Model
from jaxdistill.run import build
from jaxdistill.run.config import LayerChoice
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import Inspection, RunContext
from jaxdistill.sharding import batch_sharding, replicated_sharding, shard_batch
from jaxdistill.types import Params


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """A choice by importance, as the run folder has it; other `inputs` ask for another choice."""

    layers: tuple[int, ...]
    importance: tuple[float, ...]
    inputs: Mapping[str, str | int]


def choose_layers(context: RunContext, teacher: Model | None) -> LayerRecord | None:
    """Choose the layers that the student keeps; None where the config names them already.

    A choice in the run folder is read back, unless it was made from another source model, other
    calibration examples, or for another number of layers. UserError if the source outputs NaN.
    """
    choice, inspection = context.config.student.layers, context.inspection
    if inspection.layers is not None or not isinstance(choice, LayerChoice):
        return None
    examples = context.prepared.train[: choice.calibration_examples]
    inputs = _choice_inputs(choice, inspection, examples)
    record = read_layers(context.folder)
    if record is not None and record.inputs == inputs:
        return record
    params = build.source_params(context.config, inspection, teacher)
    importance = layer_importance(context, params, examples)
    layers = most_important_layers(importance, choice.count)
    return LayerRecord(layers=layers, importance=tuple(importance.tolist()), inputs=inputs)


def read_layers(folder: RunFolder) -> LayerRecord | None:
    """Return the choice in a run folder; None where there is none that can be read."""
    try:
        fields = json.loads(folder.layers.read_text(encoding="utf-8"))
        return LayerRecord(
            layers=tuple(fields["layers"]),
            importance=tuple(fields["importance"]),
            inputs=fields["inputs"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore_layers(inspection: Inspection, folder: RunFolder) -> Inspection:
    """Return the inspection with the layers that were chosen in a run; UserError if unreadable."""
    if inspection.layers is not None:
        return inspection
    if (record := read_layers(folder)) is None:
        raise UserError(
            f"{folder.layers}: missing or damaged; it says which layers the student keeps. "
            "`jaxdistill train` with this run's config writes it again."
        )
    return replace(inspection, layers=record.layers)


def most_important_layers(importance: Float[np.ndarray, " L"], count: int) -> tuple[int, ...]:
    """Return the `count` layers of the largest importance, in order; of equals, the earlier."""
    return tuple(sorted(np.argsort(-importance, kind="stable")[:count].tolist()))


def layer_importance(
    context: RunContext, params: Params, examples: Sequence[data.Example]
) -> Float[np.ndarray, " L"]:
    """Average 1 - cos(input, output) of each layer over scored positions; UserError if NaN."""
    inspection, sharding = context.inspection, batch_sharding(context.inspection.mesh)
    sum_batch = jax.jit(
        inspection.source_model.importance_sums,
        out_shardings=replicated_sharding(inspection.mesh),
    )
    parts = [
        jax.device_get(sum_batch(params, shard_batch(replace(batch, alignment=None), sharding)))
        for batch in context.ordered_batches(examples)
    ]
    distances, weight = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
    importance = distances / weight
    if np.isnan(importance).any():
        raise UserError(
            f"student.layers: the importance of layer {int(np.isnan(importance).argmax())} of "
            f"{context.config.student.model} is NaN, expected numbers. Its weights are damaged: "
            "check the files, or name the layers to keep as a list."
        )
    return importance


def _choice_inputs(
    choice: LayerChoice, inspection: Inspection, examples: Sequence[data.Example]
) -> dict[str, str | int]:
    """Return what a choice depends on, by name."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.tokens.tobytes() + example.loss_mask.tobytes())
    return {
        "count": choice.count,
        "model": inspection.student.identity_hash,
        "examples": digest.hexdigest()[:12],
    }
