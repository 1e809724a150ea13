"""Checks of a run before any weight is loaded: models, tokenizers, objectives, data and devices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, hub
from jaxdistill.data.split import ChatKind
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.evals import num_parameters
from jaxdistill.files import check_path_names, check_writable
from jaxdistill.models import DecoderConfig, abstract_params
from jaxdistill.objectives.base import VOCAB_NEEDS
from jaxdistill.objectives.weight_schedule import format_weight, is_always_zero
from jaxdistill.run.config import RunConfig, layer_indices, num_kept_layers
from jaxdistill.run.fingerprint import Models, check_continues
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.teacher_view import (
    make_teacher_prompt_view,
    make_teacher_view,
    reading_difference,
)
from jaxdistill.run.vocab_tables import VocabTablePair, make_vocab_tables
from jaxdistill.sharding import check_single_process, make_mesh, num_batch_shards
from jaxdistill.train import check_batch_size
from jaxdistill.types import Batch, Params


@dataclass(frozen=True)
class Inspection:
    """Everything known of a run from headers and tokenizers, without weights.

    Attributes:
        num_layers: Number of the source's layers that the student keeps.
        layers: Indices of these layers; None until they are chosen by importance.
        tokenizer: Tokenizer of the student, and of the teacher unless `teacher_view` has another.
        vocab_size: Number of tokens of the student; further rows of its LM head are padding.
        teacher_view: The teacher's view of the rows; None if it reads the student's tokens.
        chat_kinds: Kinds of rows that occur, chat or plain for student and teacher.
        teacher_renderer: The teacher's own tokenizer and chat template; None if it is the student's
            model, or there is none.
        view_reason: Why a teacher of the student's tokenizer has a view of its own.
        template_note: Whose chat template the student has, if it had none.
    """

    student: hub.Source
    num_layers: int
    layers: tuple[int, ...] | None
    teacher: hub.Source | None
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    teacher_view: data.TeacherView | None
    mesh: Mesh
    vocab_needs: frozenset[str]
    chat_kinds: tuple[ChatKind, ...] = ()
    teacher_renderer: data.Renderer | None = None
    view_reason: str = ""
    template_note: str = ""

    @cached_property
    def student_config(self) -> DecoderConfig:
        """Decoder config of the student.

        Before its layers are chosen, the first layers stand in for them: parameters have the same
        shapes whichever are kept, but layers may differ in kind.
        """
        kept = range(self.num_layers) if self.layers is None else self.layers
        kinds = tuple(self.student.config.layers[layer] for layer in kept)
        return replace(self.student.config, layers=kinds)

    def student_pretrained(self, params: Params) -> hub.Pretrained:
        """Join the student's parameters with tokenizer and source config, ready to export.

        Its generation config names every token that ends a completion.
        """
        student = hub.from_source(self.student, params, self.tokenizer, self.student_config)
        ends = data.Renderer(self.tokenizer).end_ids(student.eos_ids)
        if self.teacher_view is not None and self.has_one_tokenizer:
            ends = self.teacher_view.renderer.end_ids(ends)  # it may learn the teacher's end, too
        return student.with_eos_ids(ends)

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return self.tokenizer if self.teacher_view is None else self.teacher_view.renderer.tokenizer

    @property
    def models(self) -> Models:
        """Both models with their tokenizers."""
        models = {"the student's": (self.student, self.tokenizer)}
        if self.teacher is not None:
            models["the teacher's"] = self.teacher, self.teacher_tokenizer
        return models

    @property
    def has_one_tokenizer(self) -> bool:
        """True if student and teacher have the same tokenizer."""
        return self.teacher_view is None or not self.teacher_view.has_own_tokens

    @property
    def teacher_vocab_size(self) -> int:
        """Number of tokens of the teacher."""
        if self.has_one_tokenizer or self.teacher is None:
            return self.vocab_size
        return hub.real_vocab_size(self.teacher_tokenizer, self.teacher.config.vocab_size)

    @property
    def vocab_rows(self) -> data.VocabRows:
        """Rows of embeddings and LM heads that the tokens of the rows may name."""
        student = self.student.config.vocab_size
        teacher = student if self.teacher is None else self.teacher.config.vocab_size
        if self.teacher_view is None:
            student = min(student, teacher)
        return data.VocabRows(student, teacher)

    @cached_property
    def vocab_tables(self) -> VocabTablePair:
        """The vocabulary tables of both models that the objectives need."""
        teacher = None
        if self.teacher_view is not None and not self.has_one_tokenizer:
            teacher = self.teacher_view.renderer
        return make_vocab_tables(
            data.Renderer(self.tokenizer),
            teacher,
            (self.vocab_size, self.teacher_vocab_size),
            self.vocab_needs,
            self.chat_kinds,
        )


@dataclass(frozen=True)
class RunContext:
    """Config, folder, inspected models and tokenized rows of a run."""

    config: RunConfig
    folder: RunFolder
    inspection: Inspection
    prepared: data.PreparedData

    def ordered_batches(self, examples: Sequence[data.Example]) -> Iterator[Batch]:
        """Yield batches of examples to measure; the mesh divides their size."""
        num_shards = num_batch_shards(self.inspection.mesh)
        size = min(self.config.evaluation.batch_size, len(examples))
        batch_size = -(-size // num_shards) * num_shards
        length = self.config.data.length
        return data.ordered_batches(examples, length=length, batch_size=batch_size)


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
    """Check that the objectives suit the teacher and its tokenizer; no device is used."""
    findings = ErrorCollector()
    _check_needs(config, findings)
    with findings.collect():
        if config.teacher is not None and config.teacher.model != config.student.model:
            models = config.student.model, config.teacher.model
            _ = make_teacher_view(config, *map(_load_tokenizer, models))
    findings.raise_if_any()


@cache
def _load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    return hub.read_source(model).load_tokenizer()


def inspect(config: RunConfig) -> Inspection:
    """Read the headers of both models, and check models, objectives, devices and settings.

    Raises:
        UserError: With everything that is wrong, except in the data.
    """
    check_single_process()
    findings = ErrorCollector()
    student = teacher = tokenizer = teacher_tokenizer = teacher_view = mesh = layers = None
    with findings.collect("student.model"):
        student = hub.read_source(config.student.model)
        _ = student.config
        tokenizer = student.load_tokenizer()
    with findings.collect():
        if student is not None and tokenizer is not None:
            layers = layer_indices(config.student, student.config.num_layers)
    with findings.collect("teacher.model"):
        if config.teacher is not None:
            teacher = hub.read_source(config.teacher.model)
            _ = teacher.config
            if config.teacher.model != config.student.model:
                teacher_tokenizer = teacher.load_tokenizer()
    with findings.collect():
        if tokenizer is not None and teacher_tokenizer is not None:
            teacher_view = make_teacher_view(config, tokenizer, teacher_tokenizer)
    with findings.collect():
        for source in filter(None, (student, teacher)):
            check_length(config.data.length, source.config, str(source.path), "data.length")
    with findings.collect():
        mesh = make_mesh(config.mesh)
        check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    _check_settings(config, findings)
    findings.raise_if_any()
    assert student is not None
    assert tokenizer is not None
    assert mesh is not None
    head_sizes = [student.config.vocab_size]
    if teacher is not None and teacher_view is None:
        head_sizes.append(teacher.config.vocab_size)
    vocab_needs = frozenset().union(*(objective.vocab_needs for objective in config.objectives))
    if vocab_needs:
        _ = data.Renderer(tokenizer).token_bytes  # report an unreadable tokenizer now
    inspection = Inspection(
        student=student,
        num_layers=num_kept_layers(config.student, student.config.num_layers),
        layers=layers,
        teacher=teacher,
        tokenizer=tokenizer,
        vocab_size=hub.real_vocab_size(tokenizer, min(head_sizes)),
        teacher_view=teacher_view,
        mesh=mesh,
        vocab_needs=vocab_needs,
        teacher_renderer=None if teacher_tokenizer is None else data.Renderer(teacher_tokenizer),
    )
    check_gguf(config, inspection)
    return inspection


def check_gguf(config: RunConfig, inspection: Inspection) -> None:
    """Check that a GGUF file can hold the student, if the config asks for one.

    Layers that are chosen by importance may differ in kind from those that stand in for them
    before, so that this is to be asked again.
    """
    if config.student.gguf_dtype is None:
        return
    try:
        hub.check_gguf(inspection.student_pretrained(abstract_params(inspection.student_config)))
    except UserError as error:
        lines = [f"student.gguf_dtype: {line}" for line in error.lines]
        cure = "Set `student.gguf_dtype=null`; the student is exported as safetensors in any case."
        raise UserError(*lines, cure) from None


def inspect_rows(config: RunConfig, inspection: Inspection, rows: data.DataSplit) -> Inspection:
    """Return the inspection of a run on these rows.

    The kinds of rows decide which special tokens end completions. A teacher of the student's
    tokenizer reads the student's tokens, unless rows have a `teacher_prompt` or its chat template
    is another one. Completions are then aligned as with two tokenizers. A student without a chat
    template takes that of such a teacher. Raises UserError if objectives do not fit such rows.
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
    reason = reading_difference(student, teacher, rows.chat_kinds)
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
    checked = data.check_data(
        config.data,
        inspection.tokenizer,
        inspection.teacher_view,
        split=rows,
        vocab_rows=inspection.vocab_rows,
    )
    check_continues(config, RunFolder(config.output), inspection.models, checked.content)
    return checked


def run_facts(config: RunConfig, inspection: Inspection) -> dict[str, str]:
    """Return facts worth reading before a run, by name."""
    facts = {"student": describe_model(inspection.student_config, config.student.model)}
    if config.student.layers is not None:
        facts["layers"] = _describe_layers(inspection)
    head_sizes = [inspection.student_config.vocab_size]
    if inspection.teacher is not None and config.teacher is not None:
        facts["teacher"] = describe_model(inspection.teacher.config, config.teacher.model)
        head_sizes.append(inspection.teacher.config.vocab_size)
    rows = " and ".join(f"{size:,}" for size in head_sizes)
    facts["vocabulary"] = f"{inspection.vocab_size:,} tokens; the LM heads have {rows} rows"
    if inspection.teacher_view is not None:
        facts["vocabulary"] += f"; {_alignment_fact(inspection, inspection.teacher_view)}"
    facts["ends"] = _describe_ends(inspection)
    if inspection.template_note:
        facts["template"] = inspection.template_note
    facts["objectives"] = " + ".join(
        f"{format_weight(objective.weight)} · {objective.type}"  # pyright: ignore
        for objective in config.objectives
    )
    shape: Mapping[str, int] = inspection.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
    facts["devices"] = f"{inspection.mesh.size} {jax.devices()[0].device_kind} ({sizes})"
    return facts


def _describe_ends(inspection: Inspection) -> str:
    """Say which tokens end a completion, and which of them the student's files do not declare."""
    renderer = data.Renderer(inspection.tokenizer)
    student = inspection.student_pretrained({})
    declared = hub.from_source(inspection.student, {}, inspection.tokenizer).eos_ids
    names = renderer.tokenizer.convert_ids_to_tokens(list(student.eos_ids))
    listed = ", ".join(
        f"{name} ({token_id})" for name, token_id in zip(names, student.eos_ids, strict=True)
    )
    added = len(set(student.eos_ids) - set(declared))
    return f"{listed}; {added} of them added to the student's files" if added else listed


def _alignment_fact(inspection: Inspection, view: data.TeacherView) -> str:
    difference = inspection.view_reason
    if not inspection.has_one_tokenizer:
        difference = f"the teacher has its own {inspection.teacher_vocab_size:,} tokens"
    if view.alignment is None:
        return f"{difference}; completions are not compared"
    return f"{difference}; completions are aligned by {view.alignment.method}"


def _describe_layers(inspection: Inspection) -> str:
    counts = f"{inspection.num_layers} of {inspection.student.config.num_layers}"
    if inspection.layers is None:
        return f"{counts}, to be chosen by importance over the training examples"
    return f"{counts}: {', '.join(map(str, inspection.layers))}"


def check_length(length: int, config: DecoderConfig, model_name: str, option: str) -> None:
    """Raise UserError if `length`, the value of `option`, exceeds a model's maximum length."""
    if length > config.max_positions:
        raise UserError(
            f"{option}: {length:,} positions are more than the {config.max_positions:,} that "
            f"{model_name} reads. Take at most that many."
        )


def describe_model(config: DecoderConfig, name: str) -> str:
    """Return name, layers, width and number of parameters of a model in one line."""
    return (
        f"{name}: {config.num_layers} layer(s), width {config.embed_dim}, "
        f"{num_parameters(abstract_params(config)) / 1e6:,.1f} M parameters"
    )


def _check_settings(config: RunConfig, findings: ErrorCollector) -> None:
    """Check objectives, learning-rate schedule and output folders."""
    _check_needs(config, findings)
    with findings.collect("train"):
        config.train.optimizer.learning_rate_schedule(config.train.steps)
    with findings.collect("output"):
        _check_output_folder(RunFolder(config.output).path)
        RunFolder(config.output).check_contents()
    with findings.collect("data.rollout.directory"):
        rollout = config.data.rollout
        if isinstance(rollout, data.TeacherRollout) and rollout.directory is not None:
            _check_output_folder(Path(rollout.directory).expanduser())


def _check_output_folder(path: Path) -> None:
    """Check that the folder exists or can be created."""
    check_path_names(path)
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file; a run needs a folder. Choose another path.")
    check_writable(path)


def _check_needs(config: RunConfig, findings: ErrorCollector) -> None:
    """Check that the teacher provides what objectives and rollout need."""
    provided = config.teacher.provides if config.teacher is not None else frozenset()
    for number, objective in enumerate(config.objectives):
        missing = objective.needs - provided - {"labels"} - VOCAB_NEEDS
        with findings.collect(f"objectives[{number}]"):
            if missing:
                gives = f"teacher `{config.teacher.type}` gives" if config.teacher else "there is"
                raise UserError(
                    f"`{objective.type}` needs {', '.join(sorted(missing))}, but {gives} "  # pyright: ignore
                    f"{', '.join(sorted(provided)) or 'no teacher'}. "
                    "Set `teacher.type=online` and `teacher.model`."
                )
    with findings.collect("objectives"):
        if all(is_always_zero(objective.weight) for objective in config.objectives):
            raise UserError("every weight is 0, so nothing is learned. Raise one of them.")
    with findings.collect("data.rollout"):
        if config.data.rollout.needs_teacher and config.teacher is None:
            raise UserError(
                f"`{config.data.rollout.type}` needs a teacher to write completions, but there is "
                "no teacher. Set `teacher.model`, or `data.rollout.type=dataset`."
            )
