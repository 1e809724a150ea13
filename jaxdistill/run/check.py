"""Everything that can be known of a run before a weight is loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from jaxdistill import align, data, hub
from jaxdistill.errors import Findings, UserError
from jaxdistill.evals import num_parameters
from jaxdistill.files import check_name
from jaxdistill.models import DecoderConfig, abstract_params
from jaxdistill.objectives.weight import in_words
from jaxdistill.run.config import RunConfig, kept_layers
from jaxdistill.run.folder import RunFolder
from jaxdistill.sharding import make_mesh
from jaxdistill.train import check_batch_size


@dataclass(frozen=True)
class Inspection:
    """What a run is made of, as far as headers and tokenizers tell.

    Attributes:
        student: The files that the student starts from.
        layers: Which of their layers it keeps.
        student_config: Its shape.
        teacher: The teacher's files, when there is one.
        tokenizer: The tokenizer of both.
        vocab_size: How many tokens it has; further rows of either head are padding.
        mesh: The devices.
    """

    student: hub.Source
    layers: tuple[int, ...]
    student_config: DecoderConfig
    teacher: hub.Source | None
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    mesh: Mesh


def check(config: RunConfig) -> str:
    """Look at files, tokenizers, data and devices, and say what the run would be.

    Raises:
        UserError: with everything that is wrong.
    """
    findings = Findings()
    inspection, lines = None, ""
    with findings.collect():
        inspection = inspect(config)
    with findings.collect():
        if inspection is None:
            data.read(config.data)
        else:
            lines = data.check(config.data, inspection.tokenizer)
    findings.raise_any()
    assert inspection is not None
    facts = {**summary(config, inspection), "data": lines}
    return "\n".join(f"{name:<12} {value}" for name, value in facts.items())


def inspect(config: RunConfig) -> Inspection:
    """Read the headers of both models and see that they, the objectives and the devices agree.

    Raises:
        UserError: with everything that is wrong, except in the data.
    """
    findings = Findings()
    student = teacher = tokenizer = mesh = None
    layers: tuple[int, ...] = ()
    with findings.collect("student.model"):
        student = hub.read(config.student.model)
        _ = student.config
        tokenizer = student.load_tokenizer()
    with findings.collect():
        if student is not None and tokenizer is not None:
            layers = kept_layers(config.student, student.config.num_layers)
    with findings.collect("teacher.model"):
        if config.teacher is not None:
            teacher = hub.read(config.teacher.model)
            _ = teacher.config
            if tokenizer is not None and config.teacher.model != config.student.model:
                _check_same(tokenizer, teacher.load_tokenizer())
    with findings.collect():
        for source in filter(None, (student, teacher)):
            check_length(config.data.length, source.config, str(source.path), "data.length")
    with findings.collect():
        _check_needs(config)
    with findings.collect():
        mesh = make_mesh(config.mesh)
        check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    with findings.collect("train"):
        config.train.optimizer.rate(config.train.steps)
    with findings.collect("output"):
        _check_output(RunFolder(config.output).path)
    findings.raise_any()
    assert student is not None
    assert tokenizer is not None
    assert mesh is not None
    kept = tuple(student.config.layers[layer] for layer in layers)
    heads = [source.config.vocab_size for source in (student, teacher) if source is not None]
    return Inspection(
        student=student,
        layers=layers,
        student_config=replace(student.config, layers=kept),
        teacher=teacher,
        tokenizer=tokenizer,
        vocab_size=hub.real_vocab_size(tokenizer, min(heads)),
        mesh=mesh,
    )


def summary(config: RunConfig, inspection: Inspection) -> dict[str, Any]:
    """The facts worth reading before a run, by name."""
    facts = {"student": describe(inspection.student_config, config.student.model)}
    heads = [inspection.student_config.vocab_size]
    if inspection.teacher is not None and config.teacher is not None:
        facts["teacher"] = describe(inspection.teacher.config, config.teacher.model)
        heads.append(inspection.teacher.config.vocab_size)
    padded = " and ".join(f"{rows:,}" for rows in heads)
    facts["vocabulary"] = f"{inspection.vocab_size:,} tokens; the heads have {padded} rows"
    facts["objectives"] = " + ".join(
        f"{in_words(objective.weight)} · {objective.type}"  # pyright: ignore
        for objective in config.objectives
    )
    shape: Mapping[str, int] = inspection.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
    facts["devices"] = f"{inspection.mesh.size} {jax.devices()[0].device_kind} ({sizes})"
    return facts


def check_length(length: int, config: DecoderConfig, place: str, option: str) -> None:
    """See that a model reads sequences of so many places, as an option says.

    Raises:
        UserError: when it is made for shorter ones.
    """
    if length > config.max_positions:
        raise UserError(
            f"{option}: {length:,} places are more than the {config.max_positions:,} that {place} "
            "reads. Take at most that many."
        )


def describe(config: DecoderConfig, place: str) -> str:
    """A model in a line."""
    return (
        f"{place}: {config.num_layers} layer(s), width {config.embed_dim}, "
        f"{num_parameters(abstract_params(config)) / 1e6:,.1f} M parameters"
    )


def _check_output(path: Path) -> None:
    """A run folder can be made where it is to be."""
    check_name(path)
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file; a run needs a folder. Choose another place.")
    if not os.access(existing, os.W_OK):
        raise UserError(f"{existing} cannot be written to. Choose another place.")


def _check_needs(config: RunConfig) -> None:
    """Every objective's needs are met by what the teacher provides."""
    provided = config.teacher.provides if config.teacher is not None else frozenset()
    findings = Findings()
    for number, objective in enumerate(config.objectives):
        missing = objective.needs - provided - {"labels"}
        with findings.collect(f"objectives[{number}]"):
            if missing:
                gives = f"teacher `{config.teacher.type}` gives" if config.teacher else "there is"
                raise UserError(
                    f"`{objective.type}` needs {', '.join(sorted(missing))}, but {gives} "  # pyright: ignore
                    f"{', '.join(sorted(provided)) or 'no teacher'}. "
                    "Set `teacher.type=online` and `teacher.model`."
                )
    with findings.collect("data.rollout"):
        if config.data.rollout.needs_teacher and config.teacher is None:
            raise UserError(
                f"`{config.data.rollout.type}` lets a teacher write, but there is none. "
                "Set `teacher.model`, or `data.rollout.type=dataset`."
            )
    findings.raise_any()


def _check_same(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    found = align.difference(student, teacher)
    if found is not None:
        raise UserError(
            f"its tokenizer is not the student's: {found}. The objectives here compare token with "
            "token. Take a teacher and a student of one family, or start the student from the "
            "teacher's files."
        )
