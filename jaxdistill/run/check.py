"""Everything that can be known of a run before a weight is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, hub
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.evals import num_parameters
from jaxdistill.files import check_path_names, check_writable
from jaxdistill.models import DecoderConfig, abstract_params
from jaxdistill.objectives.base import VOCAB_NEEDS
from jaxdistill.objectives.weight_schedule import format_weight, is_always_zero
from jaxdistill.run import vocab_tables
from jaxdistill.run.config import RunConfig, layer_indices
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.teacher_view import make_teacher_prompt_view, make_teacher_view
from jaxdistill.sharding import make_mesh
from jaxdistill.train import check_batch_size
from jaxdistill.types import VocabTables


@dataclass(frozen=True)
class Inspection:
    """What a run is made of, as far as headers and tokenizers tell.

    Attributes:
        student: The files that the student starts from.
        layers: Which of their layers it keeps.
        student_config: Its shape.
        teacher: The teacher's files, when there is one.
        tokenizer: The student's tokenizer, and the teacher's unless `beside` has another.
        vocab_size: How many tokens it has; further rows of the heads that use it are padding.
        beside: How the teacher reads the rows, where that is another way than the student's.
        mesh: The devices.
        vocab_needs: What the objectives ask of the words of both vocabularies.
        ends: Whether the rows are chats, on either side (`data.Rows.ends`).
    """

    student: hub.Source
    layers: tuple[int, ...]
    student_config: DecoderConfig
    teacher: hub.Source | None
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    teacher_view: data.TeacherView | None
    mesh: Mesh
    vocab_needs: frozenset[str]
    chat_kinds: tuple[tuple[bool, bool], ...] = ()

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """What the teacher reads with."""
        return self.tokenizer if self.teacher_view is None else self.teacher_view.renderer.tokenizer

    @property
    def has_one_tokenizer(self) -> bool:
        """Whether the teacher reads with the student's."""
        return self.teacher_tokenizer is self.tokenizer

    @property
    def teacher_vocab_size(self) -> int:
        """How many tokens that has."""
        if self.has_one_tokenizer or self.teacher is None:
            return self.vocab_size
        return hub.real_vocab_size(self.teacher_tokenizer, self.teacher.config.vocab_size)

    @cached_property
    def vocab_tables(self) -> tuple[VocabTables | None, VocabTables | None]:
        """What the student's words are to the teacher, and the other way, where that is asked."""
        teacher = None
        if self.teacher_view is not None and not self.has_one_tokenizer:
            teacher = self.teacher_view.renderer
        sizes = self.vocab_size, self.teacher_vocab_size
        student = data.Renderer(self.tokenizer)
        return vocab_tables.make_vocab_tables(
            student, teacher, sizes, self.vocab_needs, self.chat_kinds
        )


def check(config: RunConfig) -> str:
    """Look at files, tokenizers, data and devices, and say what the run would be.

    Raises:
        UserError: with everything that is wrong.
    """
    findings = ErrorCollector()
    inspection, lines = None, ""
    with findings.collect():
        inspection = inspect(config)
    with findings.collect():
        if inspection is None:
            data.read_split(config.data)
        else:
            rows = data.read_split(config.data)
            inspection = inspect_rows(config, inspection, rows)
            lines = data.check_data(
                config.data, inspection.tokenizer, inspection.teacher_view, split=rows
            )
    findings.raise_if_any()
    assert inspection is not None
    facts = {**run_facts(config, inspection), "data": lines}
    return "\n".join(f"{name:<12} {value}" for name, value in facts.items())


def check_objectives(config: RunConfig) -> None:
    """See that objectives suit the teacher, as far as tokenizers tell; no device is asked for.

    Raises:
        UserError: where they do not, or a tokenizer cannot be read.
    """
    findings = ErrorCollector()
    with findings.collect():
        _check_needs(config)
    with findings.collect():
        if config.teacher is not None and config.teacher.model != config.student.model:
            models = config.student.model, config.teacher.model
            _ = make_teacher_view(config, *map(_load_tokenizer, models))
    findings.raise_if_any()


@cache
def _load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    return hub.read_source(model).load_tokenizer()


def inspect(config: RunConfig) -> Inspection:
    """Read the headers of both models and see that they, the objectives and the devices agree.

    Raises:
        UserError: with everything that is wrong, except in the data.
    """
    findings = ErrorCollector()
    student = teacher = tokenizer = theirs = beside = mesh = None
    layers: tuple[int, ...] = ()
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
                theirs = teacher.load_tokenizer()
    with findings.collect():
        if tokenizer is not None and theirs is not None:
            beside = make_teacher_view(config, tokenizer, theirs)
    with findings.collect():
        for source in filter(None, (student, teacher)):
            check_length(config.data.length, source.config, str(source.path), "data.length")
    with findings.collect():
        _check_needs(config)
    with findings.collect():
        mesh = make_mesh(config.mesh)
        check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    with findings.collect("train"):
        config.train.optimizer.learning_rate_schedule(config.train.steps)
    with findings.collect("output"):
        _check_output(RunFolder(config.output).path)
    with findings.collect("data.rollout.directory"):
        rollout = config.data.rollout
        if isinstance(rollout, data.TeacherRollout) and rollout.directory is not None:
            _check_output(Path(rollout.directory).expanduser())
    findings.raise_if_any()
    assert student is not None
    assert tokenizer is not None
    assert mesh is not None
    kept = tuple(student.config.layers[layer] for layer in layers)
    heads = [student.config.vocab_size]
    if teacher is not None and beside is None:
        heads.append(teacher.config.vocab_size)
    vocab_needs = frozenset().union(*(objective.vocab_needs for objective in config.objectives))
    if vocab_needs:
        _ = data.Renderer(tokenizer).token_bytes  # what cannot be read is told now
    return Inspection(
        student=student,
        layers=layers,
        student_config=replace(student.config, layers=kept),
        teacher=teacher,
        tokenizer=tokenizer,
        vocab_size=hub.real_vocab_size(tokenizer, min(heads)),
        teacher_view=beside,
        mesh=mesh,
        vocab_needs=vocab_needs,
    )


def inspect_rows(config: RunConfig, inspection: Inspection, rows: data.DataSplit) -> Inspection:
    """The inspection of a run on these rows.

    Their kinds say in which marks answers end. A teacher of the student's tokenizer reads the very
    tokens of the student, unless there are rows that have a prompt for it alone. Then answers are
    compared as with two tokenizers: their tokens are the same words, and most of them stand alone
    in their group.

    Raises:
        UserError: where objectives want the places of both to meet in different ways.
    """
    inspection = replace(inspection, ends=rows.chat_kinds)
    is_beside = inspection.teacher_view is not None or inspection.teacher is None
    if is_beside or not rows.has_teacher_prompts:
        return inspection
    return replace(inspection, beside=make_teacher_prompt_view(config, inspection.tokenizer))


def run_facts(config: RunConfig, inspection: Inspection) -> dict[str, Any]:
    """The facts worth reading before a run, by name."""
    facts = {"student": describe_model(inspection.student_config, config.student.model)}
    heads = [inspection.student_config.vocab_size]
    if inspection.teacher is not None and config.teacher is not None:
        facts["teacher"] = describe_model(inspection.teacher.config, config.teacher.model)
        heads.append(inspection.teacher.config.vocab_size)
    padded = " and ".join(f"{rows:,}" for rows in heads)
    facts["vocabulary"] = f"{inspection.vocab_size:,} tokens; the heads have {padded} rows"
    if inspection.teacher_view is not None:
        way = inspection.teacher_view.alignment
        own = f"the teacher has {inspection.teacher_vocab_size:,} tokens of its own"
        if inspection.has_one_tokenizer:
            own = "the teacher has prompts of its own, and answers"
        facts["vocabulary"] += (
            f"; {own}, {'which are not compared' if way is None else f'aligned by {way.method}'}"
        )
    facts["objectives"] = " + ".join(
        f"{format_weight(objective.weight)} · {objective.type}"  # pyright: ignore
        for objective in config.objectives
    )
    shape: Mapping[str, int] = inspection.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
    facts["devices"] = f"{inspection.mesh.size} {jax.devices()[0].device_kind} ({sizes})"
    return facts


def check_length(length: int, config: DecoderConfig, model_name: str, option: str) -> None:
    """See that a model reads sequences of so many places, as an option says.

    Raises:
        UserError: when it is made for shorter ones.
    """
    if length > config.max_positions:
        raise UserError(
            f"{option}: {length:,} places are more than the {config.max_positions:,} that {model_name} "
            "reads. Take at most that many."
        )


def describe_model(config: DecoderConfig, name: str) -> str:
    """A model in a line."""
    return (
        f"{name}: {config.num_layers} layer(s), width {config.embed_dim}, "
        f"{num_parameters(abstract_params(config)) / 1e6:,.1f} M parameters"
    )


def _check_output(path: Path) -> None:
    """A run folder can be made where it is to be."""
    check_path_names(path)
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file; a run needs a folder. Choose another place.")
    check_writable(path)


def _check_needs(config: RunConfig) -> None:
    """Every objective's needs are met by what the teacher provides."""
    provided = config.teacher.provides if config.teacher is not None else frozenset()
    findings = ErrorCollector()
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
            raise UserError("every weight is 0, so that nothing is learned. Raise one of them.")
    with findings.collect("data.rollout"):
        if config.data.rollout.needs_teacher and config.teacher is None:
            raise UserError(
                f"`{config.data.rollout.type}` lets a teacher write, but there is none. "
                "Set `teacher.model`, or `data.rollout.type=dataset`."
            )
    findings.raise_if_any()
