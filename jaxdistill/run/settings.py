"""Checks of single settings: objectives, lengths and output folders."""

from dataclasses import fields
from pathlib import Path

from jaxdistill import data
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.files import check_path_names, check_writable
from jaxdistill.models import LanguageModel
from jaxdistill.objectives.needs import Provides
from jaxdistill.objectives.weight_schedule import is_always_zero
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder


def check_length(length: int, model: LanguageModel, name: str, option: str) -> None:
    """Raise UserError if `length`, the value of `option`, exceeds a model's maximum length."""
    if length > model.max_positions:
        raise UserError(
            f"{option}: {length:,} positions are more than the {model.max_positions:,} that "
            f"{name} reads. Take at most that many."
        )


def check_settings(config: RunConfig, findings: ErrorCollector) -> None:
    """Check objectives, learning-rate schedule and output folders."""
    check_needs(config, findings)
    with findings.collect("train"):
        config.train.optimizer.learning_rate_schedule(config.train.steps)
    with findings.collect("output"):
        _check_output_folder(RunFolder(config.output).path)
        RunFolder(config.output).check_contents()
    with findings.collect("evaluation.similarity"):
        if config.evaluation.similarity and config.teacher is None:
            raise UserError("there is no teacher to compare the student with. Set it to false.")
    with findings.collect("data.rollout.directory"):
        rollout = config.data.rollout
        if isinstance(rollout, data.TeacherRollout) and rollout.directory is not None:
            _check_output_folder(Path(rollout.directory).expanduser())


def check_heldout_fields(config: RunConfig, rows: data.DataSplit) -> None:
    """Raise UserError if the config asks for measurements on held-out rows and there are none."""
    if rows.heldout:
        return
    findings = ErrorCollector()
    for name in ("every_steps", "similarity"):
        if getattr(config.evaluation, name):
            with findings.collect(f"evaluation.{name}"):
                raise UserError(
                    "no row is held out to measure. Raise `data.heldout`, name "
                    "`data.heldout_sources`, or remove the field."
                )
    findings.raise_if_any()


def _check_output_folder(path: Path) -> None:
    """Check that the folder exists or can be created."""
    check_path_names(path)
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file; a run needs a folder. Choose another path.")
    check_writable(path)


def check_needs(config: RunConfig, findings: ErrorCollector) -> None:
    """Check that the teacher provides what objectives and rollout need, and no field is idle."""
    provided = config.teacher.provides if config.teacher is not None else Provides()
    for number, objective in enumerate(config.objectives):
        missing = objective.needs.teacher - provided
        with findings.collect(f"objectives[{number}]"):
            if missing:
                gives = f"teacher `{config.teacher.type}` gives" if config.teacher else "there is"
                raise UserError(
                    f"`{objective.type}` needs the teacher's {missing}, but {gives} "  # pyright: ignore
                    f"{provided or 'no teacher'}. "
                    "Set `teacher.type=online` and `teacher.model`."
                )
        unused = objective.unused_fields
        for field in fields(objective):
            value = getattr(objective, field.name)
            with findings.collect(f"objectives[{number}].{field.name}"):
                if field.name in unused and value != field.default:
                    raise UserError(
                        f"{value} has no effect here: the field belongs to {unused[field.name]}. "
                        "Remove it."
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
