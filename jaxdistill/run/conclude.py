"""The end of a run: the exported student, what was gained, and the report on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import rich

import jaxdistill
from jaxdistill import data, evals, hub, report
from jaxdistill.config import dump
from jaxdistill.model import Model
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder, write_json, write_text
from jaxdistill.run.measure import Measure, Question, questions, row_lines, summary, teacher_heldout
from jaxdistill.runtimes.with_jax import writer
from jaxdistill.sampling import Sampling

SPEED_PROMPTS = 8
"""How many answers are written together when speed is measured."""

STUDENT, BEFORE, TEACHER = "student", "student before", "teacher"

_OF_STUDENT = (
    "forward_kl",
    "bits_per_byte",
    "nll",
    "perplexity",
    "accuracy",
    "digit_accuracy",
    "top1_agreement",
    "top5_agreement",
    "calibration_error",
)
_OF_TEACHER = ("bits_per_byte", "nll", "perplexity")


class _Asked(NamedTuple):
    """A model that is measured at the end, and what it is asked, in its own tokens."""

    model: Model
    questions: Sequence[Question]


def conclude(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    prepared: data.Prepared,
    facts: Mapping[str, object],
    made_of: Mapping[str, str],
    measure: Measure | None,
    student: Model,
    teacher: Model | None,
) -> None:
    """Export the student, measure it beside its teacher, and write and print what was gained."""
    hub.save(student.pretrained, folder.student, dtype=config.student.export_dtype)
    student = student.astype(config.student.export_dtype).astype("float32")
    count = max(SPEED_PROMPTS, config.evaluation.samples)
    models = {STUDENT: _Asked(student, questions(prepared, student, count))}
    if teacher is not None and config.evaluation.teacher:
        asked = questions(prepared, student, count, reader=teacher)
        models[TEACHER] = _Asked(teacher, asked)

    result = {
        "comparison": _gained(config, folder, inspection, prepared, measure, models),
        "samples": [asdict(sample) for sample in _samples(config, models)],
        "facts": {**facts, "training": _effort(folder), **_versions()},
        "made_of": made_of,
    }
    _write_report(config, folder, result)
    write_json(folder.result, result)  # the last of all: where it is, the run is finished
    show(folder)


def show(folder: RunFolder) -> None:
    """Print what a finished run has gained."""
    result = json.loads(folder.result.read_text())
    console = rich.get_console()
    console.print()
    report.print_comparison(result["comparison"])
    report.print_samples([report.Sample(**sample) for sample in result["samples"]])
    places = f"\nstudent  {folder.student}\nreport   {folder.report / 'index.html'}"
    console.print(places, markup=False, highlight=False, soft_wrap=True)


def _gained(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    prepared: data.Prepared,
    measure: Measure | None,
    models: Mapping[str, _Asked],
) -> dict[str, dict[str, float]]:
    """The student before and after, and its teacher, by name; scores are written on the way."""
    before = json.loads(folder.before.read_text()) if folder.before.is_file() else {}
    found = {BEFORE: _chosen(before, _OF_STUDENT)}
    student = models[STUDENT]
    after = {} if measure is None else _measured(folder, measure, student.model, prepared)
    costs = _costs(config, student, folder.student)
    found[STUDENT] = {**_chosen(after, _OF_STUDENT), **costs}
    if TEACHER in models and config.teacher is not None:
        teacher = models[TEACHER]
        own = {name: after.get(f"teacher_{name}") for name in _OF_TEACHER}
        own |= teacher_heldout(config, inspection, teacher.model, prepared.heldout)
        costs = _costs(config, teacher, hub.read(config.teacher.model).path)
        found[TEACHER] = {**_chosen(own, _OF_TEACHER), **costs}
    return found


def _write_report(config: RunConfig, folder: RunFolder, result: Mapping[str, Any]) -> None:
    page = report.Report(
        title=f"Distillation: {folder.path.name}",
        lead=f"{result['facts'].get('student', '')}",
        comparison=result["comparison"],
        main=STUDENT,
        records=report.read_metrics(folder.metrics),
        samples=[report.Sample(**sample) for sample in result["samples"]],
        facts=result["facts"],
        config=dump(config),
    )
    report.write(page, folder.report)


def _chosen(values: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    return {name: value for name in names if (value := values.get(name)) is not None}


def _measured(
    folder: RunFolder, measure: Measure, student: Model, prepared: data.Prepared
) -> dict[str, float]:
    """What the student is worth on the held-out rows; that of each row is written down."""
    places = measure(student.params)
    lines = (json.dumps(line) for line in row_lines(places, prepared.heldout))
    write_text(folder.scores, "".join(f"{line}\n" for line in lines))
    return summary(places, prepared.heldout)


def _costs(config: RunConfig, asked: _Asked, place: Path) -> dict[str, float]:
    """How large a model is, in memory and where it lies, and how fast if that is asked."""
    model = asked.model
    found = {"num_parameters": float(evals.num_parameters(model.params))}
    if config.evaluation.speed:
        prompts = [question.tokens for question in asked.questions[:SPEED_PROMPTS]]
        write = writer(model.config, model.params, prompts, vocab_size=model.vocab_size)
        found |= asdict(evals.speed(write))
    return {**found, "size_on_disk": float(evals.size_on_disk(place))}


def _samples(config: RunConfig, models: Mapping[str, _Asked]) -> list[report.Sample]:
    if not (count := config.evaluation.samples):
        return []
    sampling = Sampling(max_new_tokens=config.evaluation.max_new_tokens)
    answers = {}
    for name, (model, asked) in models.items():
        prompts = [question.tokens for question in asked[:count]]
        answers[name] = model.decode(model.write(prompts, sampling))
    return [
        report.Sample(question.text, {name: texts[number] for name, texts in answers.items()})
        for number, question in enumerate(models[STUDENT].questions[:count])
    ]


def _effort(folder: RunFolder) -> str:
    tokens, seconds = report.spent(report.read_metrics(folder.metrics))
    return f"{tokens:,} tokens read in {seconds / 60:,.1f} minutes"


def _versions() -> dict[str, str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    device = jax.devices()[0]
    return {
        "versions": f"jaxdistill {jaxdistill.__version__}, {libraries}",
        "platform": f"{device.platform} ({device.device_kind})",
    }
