"""What a study is: a run's config, what its arms change in it, and the seeds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from jaxdistill.config import configclass, load
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.evals import RATIO_METRICS
from jaxdistill.run import RunConfig
from jaxdistill.run import load_config as read_run

_Name = Annotated[str, Field(min_length=1, pattern=r"^[\w.-]+$")]
_Changes = dict[str, Any]


@configclass
class StudyConfig:
    """A question that is answered by training.

    Attributes:
        question: What is asked, in a sentence; it heads the table.
        run: The config of a run that all arms start from, relative to the study's file.
        output: The study's folder: one run folder for each arm and seed, and the tables.
        common: What all arms change in it, by dotted name.
        arms: What each arm changes besides, by its name; `{}` changes nothing.
        baseline: The arm that the others are compared with.
        seeds: Each arm is trained once with each (`seed` of the run).
        quantities: What is compared, of what is measured on the held-out rows.
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
    """One run of a study.

    Attributes:
        arm: Which arm it belongs to.
        seed: Its seed.
        source: The file of the run's config.
        overrides: What is changed in it.
        config: What comes of both.
    """

    arm: str
    seed: int
    config_path: Path
    overrides: tuple[str, ...]
    config: RunConfig


def read(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """The study in a YAML file, with `a.b=value` overrides; UserError names every mistake."""
    _check_study_overrides(overrides)
    config = load(StudyConfig, path, overrides)
    if config.baseline not in config.arms:
        close = did_you_mean(config.baseline, list(config.arms))
        raise UserError(
            f"{path}: baseline: {config.baseline!r} is not one of the arms "
            f"{', '.join(config.arms)}.{close}"
        )
    if unknown := [name for name in config.quantities if name not in RATIO_METRICS]:
        close = did_you_mean(unknown[0], list(RATIO_METRICS))
        raise UserError(
            f"{path}: quantities: {unknown[0]!r} is not one of {', '.join(RATIO_METRICS)}.{close}"
        )
    _check_reserved_fields(config, path)
    return config


def _check_reserved_fields(config: StudyConfig, path: str | Path) -> None:
    """See that nothing is said of the runs which the study says for all of them."""
    changed = {"common": config.common} | {f"arms.{n}": one for n, one in config.arms.items()}
    findings = [
        f"{path}: {where}.{name}: every run has its own. Write the study's `{instead}` instead."
        for where, changes in changed.items()
        for name, instead in (("seed", "seeds"), ("output", "output"))
        if name in changes
    ]
    if len(set(config.seeds)) < len(config.seeds):
        findings.append(f"{path}: seeds: {list(config.seeds)} names one twice; it would count so.")
    if findings:
        raise UserError(*findings)


def _check_study_overrides(overrides: tuple[str, ...]) -> None:
    of_study, of_run = ({field.name for field in fields(cls)} for cls in (StudyConfig, RunConfig))
    findings = [
        f"override `{override}`: that is a field of the runs. Write `{name}: {value}` under "
        "`common` in the study's file, for all arms, or under one of its `arms`."
        for override in overrides
        for name, _, value in [override.partition("=")]
        if name.split(".")[0] in of_run - of_study
    ]
    if findings:
        raise UserError(*findings)


def expand_runs(study: StudyConfig, path: str | Path) -> list[StudyRun]:
    """All runs, seed by seed, so that a study which is stopped has seen every arm.

    Raises:
        UserError: naming what is wrong in any of them, before the first is trained.
    """
    source = Path(path).parent / study.run
    # What is wrong in all runs is said once, and not of each.
    read_run(source, tuple(_format_overrides({**study.common, "output": study.output, "seed": 0})))
    findings = ErrorCollector()
    found = []
    for seed in study.seeds:
        for arm, changes in study.arms.items():
            place = Path(study.output) / f"{arm}-{seed}"
            changed = {**study.common, **changes, "output": str(place), "seed": seed}
            overrides = tuple(_format_overrides(changed))
            with findings.collect(f"arm `{arm}`, seed {seed}"):
                config = read_run(source, overrides)
                found.append(StudyRun(arm, seed, source, overrides, config))
    findings.raise_if_any()
    return found


def _format_overrides(changes: Mapping[str, Any]) -> list[str]:
    """Changes as they stand on a command line; JSON is YAML."""
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]
