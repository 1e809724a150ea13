"""Config of a study, and the runs that it expands to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from jaxdistill.config import configclass, load
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.evals import RATIO_METRICS
from jaxdistill.run import RunConfig, load_config

_Name = Annotated[str, Field(min_length=1, pattern=r"^[\w.-]+$")]
_Changes = dict[str, Any]
"""New values of a run's fields, by dotted name."""


@configclass
class StudyConfig:
    """A study: runs that differ in chosen fields, each with several seeds, and their comparison.

    Attributes:
        question: The question that the study answers, in a sentence; title of the table.
        run: Config file of a run that all arms start from, relative to the study's file.
        output: Folder of the study: a run folder for each arm and seed, and the tables.
        common: Fields that all arms change, by dotted name.
        arms: Fields that each arm changes in addition, by the arm's name; `{}` changes nothing.
        baseline: Name of the arm that the others are compared with.
        seeds: Seeds of the runs (`seed`); each arm is trained once with each.
        quantities: Metrics of the held-out rows to compare.
    """

    question: str = ""
    run: Annotated[str, Field(min_length=1)]
    output: Annotated[str, Field(min_length=1)]
    common: _Changes = Field(default_factory=dict)
    arms: Annotated[dict[_Name, _Changes], Field(min_length=1)]
    baseline: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    quantities: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "forward_kl",
        "bits_per_byte",
        "top1_agreement",
    )


@dataclass(frozen=True)
class StudyRun:
    """Run of a study: a config file with the overrides of an arm and a seed."""

    arm: str
    seed: int
    config_path: Path
    overrides: tuple[str, ...]
    config: RunConfig


def read(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read a study from a YAML file, with `a.b=value` overrides; UserError names every mistake."""
    _check_study_overrides(overrides)
    config = load(StudyConfig, path, overrides)
    if config.baseline not in config.arms:
        hint = did_you_mean(config.baseline, list(config.arms))
        raise UserError(
            f"{path}: baseline: {config.baseline!r} is not one of the arms "
            f"{', '.join(config.arms)}.{hint}"
        )
    if unknown := [name for name in config.quantities if name not in RATIO_METRICS]:
        hint = did_you_mean(unknown[0], list(RATIO_METRICS))
        raise UserError(
            f"{path}: quantities: {unknown[0]!r} is not one of {', '.join(RATIO_METRICS)}.{hint}"
        )
    _check_reserved_fields(config, path)
    return config


def _check_reserved_fields(config: StudyConfig, path: str | Path) -> None:
    """Check that no arm sets a field that the study sets for every run, and no seed is repeated."""
    sections = {"common": config.common} | {f"arms.{n}": c for n, c in config.arms.items()}
    errors = [
        f"{path}: {section}.{name}: every run has its own. Write the study's `{field}` instead."
        for section, changes in sections.items()
        for name, field in (("seed", "seeds"), ("output", "output"))
        if name in changes
    ]
    if len(set(config.seeds)) < len(config.seeds):
        errors.append(
            f"{path}: seeds: {list(config.seeds)} names one twice, so it would count twice. "
            "Remove it."
        )
    if errors:
        raise UserError(*errors)


def _check_study_overrides(overrides: tuple[str, ...]) -> None:
    study_fields, run_fields = (
        {field.name for field in fields(cls)} for cls in (StudyConfig, RunConfig)
    )
    errors = [
        f"override `{override}`: that is a field of the runs. Write `{name}: {value}` under "
        "`common` in the study's file, for all arms, or under one of its `arms`."
        for override in overrides
        for name, _, value in [override.partition("=")]
        if name.split(".")[0] in run_fields - study_fields
    ]
    if errors:
        raise UserError(*errors)


def expand_runs(study: StudyConfig, path: str | Path) -> list[StudyRun]:
    """Expand a study to its runs: all arms of the first seed, then of the next.

    So a study that is stopped has trained every arm. UserError names every mistake of a config.
    """
    config_path = Path(path).parent / study.run
    # A mistake in all runs is reported once, without the name of an arm.
    load_config(config_path, _overrides({**study.common, "output": study.output, "seed": 0}))
    errors = ErrorCollector()
    runs = []
    for seed in study.seeds:
        for arm, changes in study.arms.items():
            folder = Path(study.output) / f"{arm}-{seed}"
            reserved = {"output": str(folder), "seed": seed}
            overrides = _overrides({**study.common, **changes, **reserved})
            with errors.collect(f"arm `{arm}`, seed {seed}"):
                config = load_config(config_path, overrides)
                runs.append(StudyRun(arm, seed, config_path, overrides, config))
    errors.raise_if_any()
    return runs


def _overrides(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Format changes as command-line overrides; JSON is valid YAML."""
    return tuple(f"{name}={json.dumps(value)}" for name, value in changes.items())
