"""Layers of a student that are chosen by importance, once per run folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jaxdistill import data
from jaxdistill.errors import UserError
from jaxdistill.model import Model
from jaxdistill.models import importance_sums
from jaxdistill.run import build
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import LayerChoice
from jaxdistill.run.context import RunContext
from jaxdistill.run.folder import RunFolder, write_json
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated_sharding
from jaxdistill.types import Batch, Params


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """A choice by importance, as the run folder has it.

    Attributes:
        layers: The layers that are kept, in order.
        importance: The importance of every layer of the source model.
        inputs: What the choice depends on, by name; another value asks for another choice.
    """

    layers: tuple[int, ...]
    importance: tuple[float, ...]
    inputs: Mapping[str, str | int]


def choose_layers(context: RunContext, teacher: Model | None) -> LayerRecord | None:
    """Choose the layers that the student keeps; None where the config names them already.

    A choice in the run folder is read back, unless it was made from another source model, other
    calibration examples, or for another number of layers.

    Args:
        context: The run.
        teacher: The teacher, whose arrays are used if it has the student's source.

    Raises:
        UserError: If the source model outputs NaN.
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


def write_layers(folder: RunFolder, record: LayerRecord) -> None:
    """Write a choice to the run folder.

    Raises:
        UserError: If the file cannot be written.
    """
    write_json(folder.layers, asdict(record))


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
    """Return the inspection with the layers that were chosen for the run in `folder`.

    Raises:
        UserError: If they cannot be read.
    """
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
    """Average 1 - cos(input, output) of each layer over the positions that count.

    Raises:
        UserError: If it is NaN.
    """
    config, mesh = context.config, context.inspection.mesh
    sum_batch = jax.jit(
        partial(importance_sums, context.inspection.student.config),
        out_shardings=replicated_sharding(mesh),
    )
    num_shards = num_batch_shards(mesh)
    batch_size = -(-min(config.evaluation.batch_size, len(examples)) // num_shards) * num_shards
    batches = data.ordered_batches(examples, length=config.data.length, batch_size=batch_size)
    parts = [jax.device_get(sum_batch(params, _shard_batch(batch, mesh))) for batch in batches]
    distances, weight = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
    importance = distances / weight
    if np.isnan(importance).any():
        raise UserError(
            f"student.layers: the importance of layer {int(np.isnan(importance).argmax())} of "
            f"{config.student.model} is NaN, expected numbers. Its weights are damaged: check the "
            "files, or name the layers to keep as a list."
        )
    return importance


def _shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Place the student's view of a batch on the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf, leaf.shape),
        replace(batch, alignment=None),
    )


def _choice_inputs(
    choice: LayerChoice, inspection: Inspection, examples: Sequence[data.Example]
) -> dict[str, str | int]:
    """Return what a choice depends on, by name."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.tokens.tobytes() + example.loss_mask.tobytes())
    return {
        "count": choice.count,
        "weights": inspection.student.weights_hash,
        "examples": digest.hexdigest()[:12],
    }
