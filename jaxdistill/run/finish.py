"""End of a run: export of the student, final comparison, samples and report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import rich

import jaxdistill
from jaxdistill import evals, hub, report
from jaxdistill.config import dump
from jaxdistill.model import Model
from jaxdistill.objectives.calibration import LayerScores
from jaxdistill.run.config import RunConfig
from jaxdistill.run.dtype_check import check_export_dtype
from jaxdistill.run.features import collect_features
from jaxdistill.run.folder import RunFolder, write_json, write_text
from jaxdistill.run.heldout import (
    HeldoutEvaluator,
    SamplePrompt,
    example_scores,
    sample_prompts,
    summarize,
    teacher_heldout_metrics,
)
from jaxdistill.run.inspection import RunContext
from jaxdistill.run.result import RunResult, SampleRecord, read_initial_metrics
from jaxdistill.runtimes.jax_runtime import greedy_generator
from jaxdistill.sampling import Sampling
from jaxdistill.taps import Taps

SPEED_BATCH_SIZE = 8
"""Number of prompts completed together when speed is measured."""

REPETITION_PROMPTS = 32
"""Number of held-out prompts whose completions are scored for repetition, at least."""

_SIMILARITY_ROWS = 64
"""Number of held-out rows whose hidden states are compared, at most."""

_NUM_POSITION_PARTS = 16
"""Number of parts of the longest held-out row for the metrics by position."""

STUDENT, STUDENT_BEFORE, TEACHER = "student", "student before", "teacher"

_STUDENT_METRICS = (
    "forward_kl",
    "bits_per_byte",
    "nll",
    "perplexity",
    "accuracy",
    "digit_accuracy",
    "acceptance",
    "top1_agreement",
    "top5_agreement",
    "calibration_error",
)
_TEACHER_METRICS = ("bits_per_byte", "nll", "perplexity")


class _PromptedModel(NamedTuple):
    """Model to measure, with prompts in its own tokens."""

    model: Model
    prompts: Sequence[SamplePrompt]

    def prompt_tokens(self, count: int | None = None) -> list[list[int]]:
        return [prompt.tokens for prompt in self.prompts[:count]]


def finish_run(
    context: RunContext,
    *,
    student: Model,
    teacher: Model | None,
    evaluate_heldout: HeldoutEvaluator | None,
    facts: Mapping[str, object],
    input_digests: Mapping[str, str],
    scores: Mapping[str, LayerScores],
) -> None:
    """Export the student, compare it with its teacher, and write and print the report."""
    config, folder = context.config, context.folder
    check_export_dtype(context, student)
    hub.save(student.pretrained, folder.student, dtype=config.student.export_dtype)
    if config.student.gguf_dtype is not None:
        hub.save(student.pretrained, folder.gguf, format="gguf", dtype=config.student.gguf_dtype)
    else:
        folder.gguf.unlink(missing_ok=True)  # of an earlier config
    student = student.astype(config.student.export_dtype).astype("float32")
    count, prepared = max(REPETITION_PROMPTS, config.evaluation.samples), context.prepared
    models = {STUDENT: _PromptedModel(student, sample_prompts(prepared, student, count))}
    if teacher is not None and config.evaluation.teacher:
        prompts = sample_prompts(prepared, student, count, teacher=teacher)
        models[TEACHER] = _PromptedModel(teacher, prompts)

    completions = _generate_completions(config, models)
    heldout = None if evaluate_heldout is None else evaluate_heldout(student.params)
    comparison = _compare_models(context, heldout, models)
    for name, texts in completions.items():
        comparison[name]["repeated_4grams"] = evals.repeated_ngrams(texts, n=4)
    result = RunResult(
        comparison=comparison,
        samples=_make_samples(config, models, completions),
        facts={**facts, "training": _training_effort(folder), **_versions()},
        inputs=dict(input_digests),
        is_chat=context.inspection.chat_kinds[0].student_is_chat,
    )
    heat_maps = _search_maps(scores)
    if teacher is not None and config.evaluation.similarity:
        heat_maps += _similarity_maps(context, student, teacher)
    _write_report(config, folder, result, heat_maps, _by_position(heldout))
    write_json(folder.result, asdict(result))  # written last: a run with a result is finished
    print_result(folder, result)


def print_result(folder: RunFolder, result: RunResult) -> None:
    """Print comparison and samples of a finished run."""
    console = rich.get_console()
    console.print()
    report.print_table(result.comparison, report.table_rows(result.comparison))
    report.print_samples([report.Sample(**vars(sample)) for sample in result.samples])
    paths = f"\nstudent  {folder.student}\nreport   {folder.report / 'index.html'}"
    if folder.gguf.is_file():
        paths += f"\nGGUF     {folder.gguf}"
    console.print(paths, markup=False, highlight=False, soft_wrap=True)


def _compare_models(
    context: RunContext,
    heldout: evals.TokenMetrics | None,
    models: Mapping[str, _PromptedModel],
) -> dict[str, dict[str, float]]:
    """Measure the student before and after training, and the teacher; write scores per row."""
    config, folder = context.config, context.folder
    student, after = models[STUDENT], {}
    before = read_initial_metrics(folder.initial_metrics) or {}
    if heldout is not None:
        after = _summarize_student(context, heldout)
    exports = [folder.student, folder.gguf] if config.student.gguf_dtype else [folder.student]
    costs = _measure_costs(config, student, exports)
    comparison = {
        STUDENT_BEFORE: _select_metrics(before, _STUDENT_METRICS),
        STUDENT: {**_select_metrics(after, _STUDENT_METRICS), **costs},
    }
    if TEACHER in models and config.teacher is not None:
        teacher = models[TEACHER]
        metrics = {name: after.get(f"teacher_{name}") for name in _TEACHER_METRICS}
        metrics |= teacher_heldout_metrics(context, teacher.model)
        costs = _measure_costs(config, teacher, [hub.read_source(config.teacher.model).path])
        comparison[TEACHER] = {**_select_metrics(metrics, _TEACHER_METRICS), **costs}
    return comparison


def _by_position(metrics: evals.TokenMetrics | None) -> report.MetricRecords:
    """Return the held-out metrics by position, in parts of equal width."""
    if metrics is None or not len(metrics):
        return []
    width = -(-(int(metrics.positions.max()) + 1) // _NUM_POSITION_PARTS)
    return evals.position_records(metrics, width)


def _write_report(
    config: RunConfig,
    folder: RunFolder,
    result: RunResult,
    heat_maps: Sequence[report.HeatMap],
    by_position: report.MetricRecords,
) -> None:
    page = report.RunReport(
        title=f"Distillation: {folder.path.name}",
        lead=f"{result.facts.get('student', '')}",
        comparison=result.comparison,
        main_model=STUDENT,
        records=report.read_metrics(folder.metrics),
        samples=[report.Sample(**vars(sample)) for sample in result.samples],
        heat_maps=heat_maps,
        by_position=by_position,
        facts=result.facts,
        config=dump(config),
    )
    report.write_report(page, folder.report)


def _search_maps(scores: Mapping[str, LayerScores]) -> list[report.HeatMap]:
    return [
        report.HeatMap(
            f"{name}: share of variance that a linear map explains, before training",
            rows=one.student_layers,
            columns=one.teacher_layers,
            values=one.scores,
            pairs=one.pairs,
            pairs_name="the pairs that are compared",
        )
        for name, one in scores.items()
    ]


def _similarity_maps(context: RunContext, student: Model, teacher: Model) -> list[report.HeatMap]:
    """Compare all layers of both models on the first held-out rows that both can read, if any."""
    has_own_view = context.inspection.teacher_view is not None
    examples = [e for e in context.prepared.heldout if e.teacher_example or not has_own_view]
    if not examples:
        return []
    layers = [range(1, model.language_model.widths.layers + 1) for model in (student, teacher)]
    taps = Taps(hidden=tuple(layers[0])), Taps(hidden=tuple(layers[1]))
    features = collect_features(context, student, teacher, taps, examples[:_SIMILARITY_ROWS])
    values = evals.linear_cka(*features)
    best = [(layer, int(row.argmax()) + 1) for layer, row in zip(layers[0], values, strict=True)]
    title = "Similarity of layers after training (linear CKA, held-out rows)"
    return [
        report.HeatMap(
            title,
            rows=layers[0],
            columns=layers[1],
            values=values.tolist(),
            pairs=best,
            pairs_name="the teacher's most similar layer",
        )
    ]


def _select_metrics(values: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    return {name: value for name in names if (value := values.get(name)) is not None}


def _summarize_student(context: RunContext, metrics: evals.TokenMetrics) -> dict[str, float]:
    """Return the means of the student's held-out metrics, and write its scores per row."""
    examples = context.prepared.heldout
    lines = (json.dumps(scores) for scores in example_scores(metrics, examples))
    write_text(context.folder.heldout_scores, "".join(f"{line}\n" for line in lines))
    return summarize(metrics, examples)


def _measure_costs(
    config: RunConfig, prompted: _PromptedModel, paths: Sequence[Path]
) -> dict[str, float]:
    """Count parameters and bytes on disk, and measure speed if the config asks for it."""
    model = prompted.model
    costs = {"num_parameters": float(evals.num_parameters(model.params))}
    if config.evaluation.speed:
        prompts = prompted.prompt_tokens(SPEED_BATCH_SIZE)
        generate = greedy_generator(
            model.language_model, model.params, prompts, vocab_size=model.vocab_size
        )
        costs |= asdict(evals.measure_speed(generate))
    for path in paths:
        is_gguf = config.student.gguf_dtype is not None and path.suffix == ".gguf"
        name = "gguf_size" if is_gguf else "size_on_disk"
        costs[name] = float(evals.size_on_disk(path))
    return costs


def _generate_completions(
    config: RunConfig, models: Mapping[str, _PromptedModel]
) -> dict[str, list[list[int]]]:
    """Complete all prompts greedily with each model; empty where no sample is shown."""
    if not config.evaluation.samples:
        return {}
    sampling = Sampling(max_new_tokens=config.evaluation.max_new_tokens)
    return {
        name: prompted.model.generate_tokens(prompted.prompt_tokens(), sampling)
        for name, prompted in models.items()
    }


def _make_samples(
    config: RunConfig,
    models: Mapping[str, _PromptedModel],
    completions: Mapping[str, Sequence[Sequence[int]]],
) -> list[SampleRecord]:
    count = config.evaluation.samples
    texts = {name: models[name].model.decode(c[:count]) for name, c in completions.items()}
    return [
        SampleRecord(prompt.text, {name: texts[name][i] for name in texts})
        for i, prompt in enumerate(models[STUDENT].prompts[:count])
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
