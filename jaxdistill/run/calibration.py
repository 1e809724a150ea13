"""Calibration of a run: features of both models on training examples, read before the first step.

The result is kept in the run folder, so that a continued run has the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

import jax
import numpy as np
import rich
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file
from jaxdistill.model import Model
from jaxdistill.objectives import Objective, TapObjective
from jaxdistill.objectives.base import objective_names
from jaxdistill.objectives.calibration import CalibrationData, CalibrationRequest, LayerScores
from jaxdistill.run import build
from jaxdistill.run.config import RunConfig
from jaxdistill.run.features import collect_calibration_data, num_compared_positions
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import Inspection, RunContext

_MIN_POSITIONS = 32
"""Number of compared positions that a calibration reads, at least."""

_LOW_SCORE = 0.1
"""Score below which a layer that was searched is hardly a better choice than another."""


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        objectives: The objectives, bound to both models, with the layers that were searched.
        frozen: Arrays that were fitted, by objective, pair of layers and name.
        scores: How well the layers fit each other, by objective that searched them.
    """

    objectives: tuple[Objective, ...]
    frozen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]] = field(default_factory=dict)
    scores: Mapping[str, LayerScores] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """The layers that were searched, with their scores, by a name for people."""
        return {
            f"layers, {name}": ", ".join(f"{s}–{t} ({x:.2f})" for (s, t), x in one.best.items())
            for name, one in self.scores.items()
        }

    @property
    def notes(self) -> list[str]:
        """Lines about searches that found nothing, for people."""
        notes = []
        for name, one in self.scores.items():
            if low := [pair[0] for pair, score in one.best.items() if score < _LOW_SCORE]:
                notes.append(
                    f"{name}: no layer of the teacher explains {_LOW_SCORE:.0%} of the variance of "
                    f"layer(s) {', '.join(map(str, low))} of the student, so that the search says "
                    "little of what to compare there. `layers: uniform` pairs layers by depth."
                )
        return notes

    @property
    def content(self) -> dict[str, str]:
        """Hash of the layers and arrays, by a name for messages; empty without a calibration."""
        if not (self.frozen or self.scores):
            return {}
        digest = hashlib.sha256(repr([asdict(one) for one in self.objectives]).encode())
        for array in jax.tree.leaves(self.frozen):
            digest.update(np.ascontiguousarray(array).tobytes())
        return {"the calibration": digest.hexdigest()[:12]}


def calibrate(context: RunContext, teacher: Model | None) -> Calibration:
    """Calibrate the objectives that ask for it, or read what an earlier start of the run kept.

    Raises:
        UserError: If a model gives features that are not finite.
    """
    inspection = context.inspection
    bound = Calibration(inspection.objectives)
    requests = _requests(context.config, inspection)
    if teacher is None or not requests:
        context.folder.calibration.unlink(missing_ok=True)  # of an earlier config
        return bound
    inputs = _input_digest(context)
    if (kept := _read(context.folder, bound, inputs)) is not None:
        return kept
    check_num_positions(context)  # the teacher may just have written the completions
    data = collect_calibration_data(context, teacher, reduce(_join, requests.values()))
    objectives = dict(
        zip(objective_names(context.config.objectives), context.config.objectives, strict=True)
    )
    frozen, scores, calibrated = {}, {}, {}
    for name, request in requests.items():
        result = objectives[name].calibrate(_select(data, request), *inspection.widths)
        calibrated[name], frozen[name] = result.objective, result.frozen
        if result.scores is not None:
            scores[name] = result.scores
    calibration = Calibration(_replace_objectives(bound, calibrated), frozen, scores)
    for note in calibration.notes:
        rich.get_console().print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    _write(context, calibration, inputs)
    return calibration


def check_num_positions(context: RunContext) -> None:
    """Check that the examples of a calibration, if there is one, have enough compared positions.

    Raises:
        UserError: If there are too few.
    """
    requests = _requests(context.config, context.inspection)
    if not requests:
        return
    wanted, train = max(one.num_examples for one in requests.values()), context.prepared.train
    examples = train[:wanted]
    if (size := num_compared_positions(context, examples)) < _MIN_POSITIONS:
        cure = "Raise `calibration_examples`." if wanted < len(train) else "Add rows."
        raise UserError(
            f"objectives: {', '.join(requests)}: the calibration reads {len(examples)} training "
            f"example(s), which have {size} compared position(s); expected at least "
            f"{_MIN_POSITIONS}. {cure}"
        )


def _requests(config: RunConfig, inspection: Inspection) -> dict[str, CalibrationRequest]:
    """Return what each objective that is calibrated reads."""
    if inspection.teacher is None:
        return {}
    named = zip(objective_names(config.objectives), config.objectives, strict=True)
    requests = {name: one.calibration_request(*inspection.widths) for name, one in named}
    return {name: one for name, one in requests.items() if one is not None}


def _join(first: CalibrationRequest, second: CalibrationRequest) -> CalibrationRequest:
    return CalibrationRequest(
        first.student | second.student,
        first.teacher | second.teacher,
        tuple(sorted({*first.relevance, *second.relevance})),
        max(first.num_examples, second.num_examples),
    )


def _select(data: CalibrationData, request: CalibrationRequest) -> CalibrationData:
    """Return the part of the data that an objective asked for."""
    return CalibrationData(
        {layer: data.student[layer] for layer in request.student.hidden},
        {layer: data.teacher[layer] for layer in request.teacher.hidden},
        {layer: data.relevance[layer] for layer in request.relevance},
    )


def _replace_objectives(
    bound: Calibration, calibrated: Mapping[str, Objective]
) -> tuple[Objective, ...]:
    names = objective_names(bound.objectives)
    return tuple(
        calibrated.get(name, one) for name, one in zip(names, bound.objectives, strict=True)
    )


def _input_digest(context: RunContext) -> str:
    """Hash of what the calibration depends on."""
    config, inspection = context.config, context.inspection
    models = [one.identity_hash for one in (inspection.student, inspection.teacher) if one]
    objectives = [asdict(one) for one in config.objectives if isinstance(one, TapObjective)]
    dtype = config.teacher and config.teacher.dtype
    key = [objectives, inspection.layers, models, dtype, context.prepared.content]
    return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


def _write(context: RunContext, calibration: Calibration, inputs: str) -> None:
    names = objective_names(calibration.objectives)
    content = {
        "inputs": inputs,
        "layers": {
            name: one.pairs
            for name, one in zip(names, calibration.objectives, strict=True)
            if isinstance(one, TapObjective)
        },
        "scores": {name: scores._asdict() for name, scores in calibration.scores.items()},
    }
    arrays: Any = flatten_dict(calibration.frozen, sep="/")
    text = json.dumps(content)
    # One entry: of several, the file has no fixed order.
    metadata = {"calibration": f"{_digest(text, arrays)} {text}"}
    with atomic_file(context.folder.calibration) as path:
        path.write_bytes(save(arrays, metadata=metadata))


def restore_objectives(config: RunConfig, inspection: Inspection, folder: RunFolder) -> Inspection:
    """Return the inspection with the layers that were searched in a run, if there were any.

    Raises:
        UserError: If the run was calibrated and the file of that is missing or damaged.
    """
    requests = _requests(config, inspection)
    # The pairs of layers name the modules of a checkpoint, if there are any.
    modules = build.module_shapes(config, inspection)
    if not any(modules.get(name) for name in requests):
        return inspection
    if (kept := _read(folder, Calibration(inspection.objectives), None)) is None:
        raise UserError(
            f"{folder.calibration}: missing or damaged; it says which layers the objectives "
            "compare. `jaxdistill train` with this run's config writes it again."
        )
    return replace(inspection, objectives=kept.objectives)


def _read(folder: RunFolder, bound: Calibration, inputs: str | None) -> Calibration | None:
    """Return the calibration in the run folder; None if it is missing or damaged.

    None, too, if it was made from other `inputs`, unless these are None.
    """
    try:
        with safe_open(folder.calibration, "numpy") as file:
            digest, _, text = file.metadata()["calibration"].partition(" ")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if digest != _digest(text, arrays):
            return None
        content = json.loads(text)
        if inputs not in (None, content["inputs"]):
            return None
        frozen: Any = unflatten_dict(arrays, sep="/")
        scores = {
            name: LayerScores(**{key: _as_tuples(value) for key, value in one.items()})
            for name, one in content["scores"].items()
        }
        calibrated = {
            name: replace(one, layers=_as_tuples(content["layers"][name]))  # pyright: ignore
            for name, one in zip(objective_names(bound.objectives), bound.objectives, strict=True)
            if name in content["layers"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    return Calibration(_replace_objectives(bound, calibrated), frozen, scores)


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
