"""Preparation of a run: rows, the kept layers, the calibration, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxdistill import data
from jaxdistill.model import Model
from jaxdistill.run import build
from jaxdistill.run.calibration import Calibration, calibrate
from jaxdistill.run.check import check_gguf, check_rows
from jaxdistill.run.config import LayerChoice, RunConfig
from jaxdistill.run.dtype_check import check_teacher_dtype
from jaxdistill.run.facts import run_facts
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import Inspection, RunContext
from jaxdistill.run.layer_choice import LayerRecord, choose_layers
from jaxdistill.run.rollout import rollout_cache
from jaxdistill.sampling import Sampling
from jaxdistill.track import Progress


@dataclass(frozen=True)
class PreparedRun:
    """A run before its first step.

    Attributes:
        context: Config, folder, models and data, with kept layers and calibrated objectives.
        teacher: The teacher on the mesh; None for a run without a teacher.
        student: Shapes, optimizer and shardings of what is trained.
        chosen_layers: The layers that were chosen by importance; None for any other choice.
        calibration: Layers and frozen arrays of objectives.
        content: What the fingerprint of the run compares beside config and models, by name.
        facts: Counts, sizes and choices, by a name for people.
    """

    context: RunContext
    teacher: Model | None
    student: build.Student
    chosen_layers: LayerRecord | None
    calibration: Calibration
    content: Mapping[str, Any]
    facts: Mapping[str, Any]


def prepare_run(
    config: RunConfig, folder: RunFolder, inspection: Inspection, rows: data.DataSplit
) -> PreparedRun:
    """Load the teacher, prepare the rows, choose layers and calibrate objectives.

    Raises:
        UserError: If a row, a layer, the calibration or the teacher's data type does not fit.
    """
    checked = check_rows(config, inspection, rows)
    teacher = build.load_teacher(config, inspection)
    prepared = checked.prepared or _prepare_data(config, inspection, rows, teacher)
    chosen = choose_layers(RunContext(config, folder, inspection, prepared), teacher)
    if chosen is not None:
        inspection = replace(inspection, layers=chosen.layers)
        check_gguf(config, inspection)
    calibration = calibrate(RunContext(config, folder, inspection, prepared), teacher)
    inspection = replace(inspection, objectives=calibration.objectives)
    context = RunContext(config, folder, inspection, prepared)
    check_teacher_dtype(context, teacher)
    content = {**checked.content, **calibration.content, **prepared.content}
    if isinstance(config.student.layers, LayerChoice):  # others name the layers themselves
        content["the kept layers"] = str(inspection.layers)
    facts = run_facts(config, inspection)
    facts |= {"train": str(prepared.train_counts), "held out": str(prepared.heldout_counts)}
    return PreparedRun(
        context=context,
        teacher=teacher,
        student=build.make_student(config, inspection),
        chosen_layers=chosen,
        calibration=calibration,
        content=content,
        facts=facts | calibration.facts,
    )


def _prepare_data(
    config: RunConfig,
    inspection: Inspection,
    rows: data.DataSplit,
    teacher: Model | None,
) -> data.PreparedData:
    """Tokenize the rows; the teacher writes their completions first if the rollout asks for it."""
    rollout, view = config.data.rollout, inspection.teacher_view
    if not (isinstance(rollout, data.TeacherRollout) and teacher):
        return data.prepare(
            config.data,
            inspection.tokenizer,
            split=rows,
            teacher_view=view,
            vocab_rows=inspection.vocab_rows,
        )
    sampling = Sampling(
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
    )

    def generate(prompts: Sequence[Sequence[int]], seed: int, first_index: int) -> list[list[int]]:
        return teacher.generate_tokens(
            prompts, sampling, seed=seed, first_index=first_index, batch_size=len(prompts)
        )

    with Progress("teacher writes", 0) as progress:
        generation_cache = rollout_cache(
            config, inspection, generate=generate, on_batch=progress.advance_to
        )
        return data.prepare(
            config.data,
            inspection.tokenizer,
            split=rows,
            generation_cache=generation_cache,
            teacher_view=view,
            vocab_rows=inspection.vocab_rows,
        )
