"""Checks of a run before any weight is loaded: models, tokenizers, objectives, data and devices."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from jaxdistill import data, hub
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.objectives import Objective
from jaxdistill.run.calibration import check_num_positions
from jaxdistill.run.config import RunConfig, layer_indices, num_kept_layers
from jaxdistill.run.facts import run_facts
from jaxdistill.run.fingerprint import check_continues
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import Inspection, RunContext
from jaxdistill.run.settings import check_heldout_fields, check_length, check_needs, check_settings
from jaxdistill.run.teacher_view import (
    make_teacher_prompt_view,
    make_teacher_view,
    reading_difference,
)
from jaxdistill.sharding import check_single_process, make_mesh
from jaxdistill.taps import Widths
from jaxdistill.train import check_batch_size


class CheckedRun(NamedTuple):
    """A run without mistakes; `facts` are lines worth reading before it starts."""

    config: RunConfig
    inspection: Inspection
    rows: data.DataSplit
    facts: str


def check(config: RunConfig) -> CheckedRun:
    """Check files, tokenizers, data and devices of a run.

    Raises:
        UserError: with everything that is wrong.
    """
    with data.template_time(RunFolder(config.output).start_time()):
        return _check(config)


def _check(config: RunConfig) -> CheckedRun:
    findings = ErrorCollector()
    inspection = rows = checked_data = None
    with findings.collect():
        inspection = inspect(config)
    with findings.collect():
        rows = data.read_split(config.data)
        if inspection is not None:
            inspection = inspect_rows(config, inspection, rows)
            rows = drop_bad_rows(config, inspection, rows)
            checked_data = check_rows(config, inspection, rows)
    findings.raise_if_any()
    assert inspection is not None
    assert rows is not None
    assert checked_data is not None
    renderer = data.Renderer(inspection.tokenizer)
    facts = {
        **run_facts(config, inspection),
        "data": checked_data.summary,
        "rows": data.summarize_rows(rows, renderer),
    }
    lines = "\n".join(f"{name:<12} {value}" for name, value in facts.items())
    return CheckedRun(config, inspection, rows, lines)


def check_objectives(config: RunConfig) -> None:
    """Check that the objectives suit both models and their tokenizers; no device is used."""
    findings = ErrorCollector()
    check_needs(config, findings)
    widths = {}
    models = {"student.model": config.student.model}
    if config.teacher is not None:
        models["teacher.model"] = config.teacher.model
    for name, model in models.items():
        with findings.collect(name):
            widths[name] = _read_source(model).language_model.widths
    findings.raise_if_any()
    with findings.collect():
        if config.teacher is not None:
            student, teacher = widths["student.model"], widths["teacher.model"]
            _ = layer_indices(config.student, student.layers)
            student = student._replace(layers=num_kept_layers(config.student, student.layers))
            _ = bind_objectives(config.objectives, student, teacher)
    with findings.collect():
        if config.teacher is not None and config.teacher.model != config.student.model:
            _ = make_teacher_view(config, *map(_load_tokenizer, models.values()))
    findings.raise_if_any()


_read_source = cache(hub.read_source)


@cache
def _load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    return _read_source(model).load_tokenizer()


def inspect(config: RunConfig, devices: Sequence[Any] | None = None) -> Inspection:
    """Read the headers of both models, and check models, objectives, devices and settings.

    `devices` are those of the mesh; None for all of this process.

    Raises:
        UserError: With everything that is wrong, except in the data.
    """
    check_single_process()
    findings = ErrorCollector()
    student = teacher = tokenizer = teacher_tokenizer = teacher_view = mesh = layers = None
    with findings.collect("student.model"):
        student = hub.read_source(config.student.model)
        _ = student.language_model
        tokenizer = student.load_tokenizer()
    with findings.collect():
        if student is not None and tokenizer is not None:
            layers = layer_indices(config.student, student.language_model.widths.layers)
    with findings.collect("teacher.model"):
        if config.teacher is not None:
            teacher = hub.read_source(config.teacher.model)
            _ = teacher.language_model
            if config.teacher.model != config.student.model:
                teacher_tokenizer = teacher.load_tokenizer()
    with findings.collect():
        if tokenizer is not None and teacher_tokenizer is not None:
            teacher_view = make_teacher_view(config, tokenizer, teacher_tokenizer)
    with findings.collect():
        for source in filter(None, (student, teacher)):
            check_length(config.data.length, source.language_model, str(source.path), "data.length")
    with findings.collect():
        mesh = make_mesh(config.mesh, devices)
        check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    check_settings(config, findings)
    findings.raise_if_any()
    assert student is not None
    assert tokenizer is not None
    assert mesh is not None
    head_sizes = [student.language_model.vocab_size]
    if teacher is not None and teacher_view is None:
        head_sizes.append(teacher.language_model.vocab_size)
    vocab_needs = frozenset().union(*(objective.vocab_needs for objective in config.objectives))
    if vocab_needs:
        _ = data.Renderer(tokenizer).token_bytes  # report an unreadable tokenizer now
    num_layers = num_kept_layers(config.student, student.language_model.widths.layers)
    inspection = Inspection(
        student=student,
        num_layers=num_layers,
        layers=layers,
        teacher=teacher,
        tokenizer=tokenizer,
        vocab_size=hub.real_vocab_size(tokenizer, min(head_sizes)),
        teacher_view=teacher_view,
        mesh=mesh,
        vocab_needs=vocab_needs,
        teacher_renderer=None if teacher_tokenizer is None else data.Renderer(teacher_tokenizer),
        remat=config.train.remat,
    )
    check_gguf(config, inspection)
    bound = config.objectives
    if teacher is not None:
        widths = inspection.student_model.widths, teacher.language_model.widths
        bound = bind_objectives(config.objectives, *widths)
    return replace(inspection, objectives=bound)


def bind_objectives(
    objectives: Sequence[Objective], student: Widths, teacher: Widths
) -> tuple[Objective, ...]:
    """Bind the objectives to both models; UserError with all that do not fit."""
    bound, findings = [], ErrorCollector()
    for number, objective in enumerate(objectives):
        with findings.collect(f"objectives[{number}]"):
            bound.append(objective.bind(student, teacher))
    findings.raise_if_any()
    return tuple(bound)


def check_gguf(config: RunConfig, inspection: Inspection) -> None:
    """Check that a GGUF file can hold the student, if the config asks for one.

    Layers that are chosen by importance may differ in kind from those that stand in for them
    before, so that this is to be asked again.
    """
    if config.student.gguf_dtype is None:
        return
    try:
        hub.check_gguf(inspection.student_pretrained(inspection.student_model.abstract_params()))
    except UserError as error:
        lines = [f"student.gguf_dtype: {line}" for line in error.lines]
        cure = "Set `student.gguf_dtype=null`; the student is exported as safetensors in any case."
        raise UserError(*lines, cure) from None


def inspect_rows(config: RunConfig, inspection: Inspection, rows: data.DataSplit) -> Inspection:
    """Return the inspection of a run on these rows.

    The kinds of rows decide which special tokens end completions. A teacher of the student's
    tokenizer reads the student's tokens, unless rows have a `teacher_prompt` or its chat template
    is another one. Completions are then aligned as with two tokenizers. The tokenizer of a student
    without a chat template is given that of such a teacher.

    Raises:
        UserError: If the objectives do not fit such rows.
    """
    inspection = replace(inspection, chat_kinds=rows.chat_kinds)
    if inspection.teacher_view is not None or inspection.teacher is None:
        return inspection
    student = data.Renderer(inspection.tokenizer)
    teacher = inspection.teacher_renderer or student
    is_chat = any(kind.student_is_chat for kind in rows.chat_kinds)
    if is_chat and teacher.chat_template.source and not student.chat_template.source:
        inspection.tokenizer.chat_template = teacher.tokenizer.chat_template
        inspection = replace(
            inspection, template_note="the student has none, and takes the teacher's"
        )
    reason = reading_difference(student, teacher, rows)
    if reason is None and not rows.has_teacher_prompts:
        return inspection
    view = make_teacher_prompt_view(
        config, teacher.tokenizer, reason or "rows have a `teacher_prompt`"
    )
    view_reason = reason or "the teacher has its own prompts"
    return replace(inspection, teacher_view=view, view_reason=view_reason)


def drop_bad_rows(
    config: RunConfig, inspection: Inspection, rows: data.DataSplit
) -> data.DataSplit:
    """Return the rows without those that `data.bad_rows=drop` leaves out."""
    renderer = data.Renderer(inspection.tokenizer)
    return data.drop_refused_rows(config.data, rows, renderer, inspection.teacher_view)


def check_rows(config: RunConfig, inspection: Inspection, rows: data.DataSplit) -> data.CheckedData:
    """Check the rows, and whether a run that has begun in the folder can continue with them.

    Raises:
        UserError: With all errors of the rows, or with everything that has changed since then.
    """
    check_heldout_fields(config, rows)
    checked = data.check_data(
        config.data,
        inspection.tokenizer,
        inspection.teacher_view,
        split=rows,
        vocab_rows=inspection.vocab_rows,
    )
    folder = RunFolder(config.output)
    check_continues(config, folder, inspection.models, checked.content)
    if checked.prepared is not None:
        check_num_positions(RunContext(config, folder, inspection, checked.prepared))
    return checked
