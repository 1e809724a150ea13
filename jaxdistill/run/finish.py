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
from jaxdistill.run.heldout import (
    HeldoutEvaluator,
    SamplePrompt,
    example_scores,
    sample_prompts,
    summarize,
    teacher_heldout_metrics,
)
from jaxdistill.runtimes.jax_runtime import greedy_generator
from jaxdistill.sampling import Sampling

SPEED_BATCH_SIZE = 8
"""How many answers are written together when speed is measured."""

STUDENT, STUDENT_BEFORE, TEACHER = "student", "student before", "teacher"

_STUDENT_METRICS = (
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
_TEACHER_METRICS = ("bits_per_byte", "nll", "perplexity")


class _PromptedModel(NamedTuple):
    """A model that is measured at the end, and what it is asked, in its own tokens."""

    model: Model
    prompts: Sequence[SamplePrompt]


def finish_run(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    prepared: data.PreparedData,
    facts: Mapping[str, object],
    input_digests: Mapping[str, str],
    evaluate_heldout: HeldoutEvaluator | None,
    student: Model,
    teacher: Model | None,
) -> None:
    """Export the student, measure it beside its teacher, and write and print what was gained."""
    hub.save(student.pretrained, folder.student, dtype=config.student.export_dtype)
    student = student.astype(config.student.export_dtype).astype("float32")
    count = max(SPEED_BATCH_SIZE, config.evaluation.samples)
    models = {STUDENT: _PromptedModel(student, sample_prompts(prepared, student, count))}
    if teacher is not None and config.evaluation.teacher:
        asked = sample_prompts(prepared, student, count, teacher=teacher)
        models[TEACHER] = _PromptedModel(teacher, asked)

    result = {
        "comparison": _compare_models(
            config, folder, inspection, prepared, evaluate_heldout, models
        ),
        "samples": [asdict(sample) for sample in _generate_samples(config, models)],
        "facts": {**facts, "training": _training_effort(folder), **_versions()},
        "made_of": input_digests,
    }
    _write_report(config, folder, result)
    write_json(folder.result, result)  # the last of all: where it is, the run is finished
    print_result(folder)


def print_result(folder: RunFolder) -> None:
    """Print what a finished run has gained."""
    result = json.loads(folder.result.read_text())
    console = rich.get_console()
    console.print()
    report.print_comparison(result["comparison"])
    report.print_samples([report.Sample(**sample) for sample in result["samples"]])
    places = f"\nstudent  {folder.student}\nreport   {folder.report / 'index.html'}"
    console.print(places, markup=False, highlight=False, soft_wrap=True)


def _compare_models(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    prepared: data.PreparedData,
    evaluate_heldout: HeldoutEvaluator | None,
    models: Mapping[str, _PromptedModel],
) -> dict[str, dict[str, float]]:
    """The student before and after, and its teacher, by name; scores are written on the way."""
    before = (
        json.loads(folder.initial_metrics.read_text()) if folder.initial_metrics.is_file() else {}
    )
    found = {STUDENT_BEFORE: _select_metrics(before, _STUDENT_METRICS)}
    student = models[STUDENT]
    after = (
        {}
        if evaluate_heldout is None
        else _score_student(folder, evaluate_heldout, student.model, prepared)
    )
    costs = _measure_costs(config, student, folder.student)
    found[STUDENT] = {**_select_metrics(after, _STUDENT_METRICS), **costs}
    if TEACHER in models and config.teacher is not None:
        teacher = models[TEACHER]
        own = {name: after.get(f"teacher_{name}") for name in _TEACHER_METRICS}
        own |= teacher_heldout_metrics(config, inspection, teacher.model, prepared.heldout)
        costs = _measure_costs(config, teacher, hub.read_source(config.teacher.model).path)
        found[TEACHER] = {**_select_metrics(own, _TEACHER_METRICS), **costs}
    return found


def _write_report(config: RunConfig, folder: RunFolder, result: Mapping[str, Any]) -> None:
    page = report.RunReport(
        title=f"Distillation: {folder.path.name}",
        lead=f"{result['facts'].get('student', '')}",
        comparison=result["comparison"],
        main_model=STUDENT,
        records=report.read_metrics(folder.metrics),
        samples=[report.Sample(**sample) for sample in result["samples"]],
        facts=result["facts"],
        config=dump(config),
    )
    report.write_report(page, folder.report)


def _select_metrics(values: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    return {name: value for name in names if (value := values.get(name)) is not None}


def _score_student(
    folder: RunFolder,
    evaluate_heldout: HeldoutEvaluator,
    student: Model,
    prepared: data.PreparedData,
) -> dict[str, float]:
    """What the student is worth on the held-out rows; that of each row is written down."""
    places = evaluate_heldout(student.params)
    lines = (json.dumps(line) for line in example_scores(places, prepared.heldout))
    write_text(folder.heldout_scores, "".join(f"{line}\n" for line in lines))
    return summarize(places, prepared.heldout)


def _measure_costs(config: RunConfig, prompted: _PromptedModel, path: Path) -> dict[str, float]:
    """How large a model is, in memory and where it lies, and how fast if that is asked."""
    model = prompted.model
    found = {"num_parameters": float(evals.num_parameters(model.params))}
    if config.evaluation.speed:
        prompts = [question.tokens for question in prompted.prompts[:SPEED_BATCH_SIZE]]
        write = greedy_generator(model.config, model.params, prompts, vocab_size=model.vocab_size)
        found |= asdict(evals.measure_speed(write))
    return {**found, "size_on_disk": float(evals.size_on_disk(path))}


def _generate_samples(
    config: RunConfig, models: Mapping[str, _PromptedModel]
) -> list[report.Sample]:
    if not (count := config.evaluation.samples):
        return []
    sampling = Sampling(max_new_tokens=config.evaluation.max_new_tokens)
    answers = {}
    for name, (model, asked) in models.items():
        prompts = [question.tokens for question in asked[:count]]
        answers[name] = model.decode(model.generate_tokens(prompts, sampling))
    return [
        report.Sample(question.text, {name: texts[number] for name, texts in answers.items()})
        for number, question in enumerate(models[STUDENT].prompts[:count])
    ]


def _training_effort(folder: RunFolder) -> str:
    tokens, seconds = report.training_effort(report.read_metrics(folder.metrics))
    return f"{tokens:,} tokens read in {seconds / 60:,.1f} minutes"


def _versions() -> dict[str, str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    device = jax.devices()[0]
    return {
        "versions": f"jaxdistill {jaxdistill.__version__}, {libraries}",
        "platform": f"{device.platform} ({device.device_kind})",
    }
