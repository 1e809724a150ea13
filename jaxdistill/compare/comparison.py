"""A comparison from its options to its folder."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path

import jax
import numpy as np
import rich
from jaxtyping import Float

import jaxdistill
from jaxdistill import data, report, run
from jaxdistill.compare import human_eval, quality, scoring
from jaxdistill.compare.costs import MIN_MEASURED_SAVING, MIN_SAVING, add_costs
from jaxdistill.compare.metrics import ALL_MODELS, MIN_ROWS, ComparisonMetrics
from jaxdistill.compare.options import CompareOptions
from jaxdistill.compare.page import ComparisonPage, describe_excluded_rows, render_page
from jaxdistill.compare.recommendation import recommend
from jaxdistill.errors import ErrorCollector
from jaxdistill.files import atomic_directory
from jaxdistill.sharding import check_single_process

OUTPUT_FILES = ("index.html", "metrics.jsonl", human_eval.SHEET_NAME)

_TaskScorer = Callable[[str], dict[str, Float[np.ndarray, " R"]]]
"""Function from the path of a model to each metric of every row."""


def compare(options: CompareOptions) -> Path:
    """Compare the models, write the folder, print the recommendation, and return the page's path.

    Raises:
        UserError: for mistakes in models, rows, judgements or the output folder.
    """
    check_single_process(takes_devices=False)
    # Mistakes in files are found before hours of measuring.
    rows = scoring.read_text_rows(
        options.data.sources, as_chat=options.data.prompt_template == "chat"
    )
    score_task = _make_task_scorer(options) if options.task else None
    if options.judgements:
        max_pairs = options.prompts * (len(options.models) - 1)
        human_eval.read_sheet(options.judgements, [None] * max_pairs)

    metrics = ComparisonMetrics(options.models, options.currency)
    breakdown, comparable = _measure_models(metrics, options, rows, score_task)
    samples, sheet = _compare_completions(metrics, options, comparable)
    out = _find_output_folder(options)
    page = ComparisonPage(
        options=replace(options, out=out),
        metrics=metrics,
        recommendation=recommend(metrics),
        breakdown=breakdown,
        samples=samples,
        facts=_describe_methods(metrics, options),
    )
    contents = (render_page(page), metrics.to_jsonl(), sheet)
    with atomic_directory(out) as folder:
        for name, text in zip(OUTPUT_FILES, contents, strict=True):
            (folder / name).write_bytes(text.encode())
    _print_page(page)
    if out != options.out:
        _print_text(f"\n{options.out} holds judgements or other files, so {out} was written.")
    return out / OUTPUT_FILES[0]


def _make_task_scorer(options: CompareOptions) -> _TaskScorer:
    task = run.load_task(str(options.task))
    prompts = run.make_task_prompts(task, options.data.sources)
    errors = ErrorCollector()
    for name, path in options.models.items():
        with errors.collect(f"--task: {name}"):
            run.check_task(path, task, prompts)
    errors.raise_if_any()
    return lambda path: run.score_task(path, task, prompts, batch_size=options.batch_size)


def _measure_models(
    metrics: ComparisonMetrics,
    options: CompareOptions,
    rows: scoring.TextRows,
    score_task: _TaskScorer | None,
) -> tuple[quality.WordBreakdown, list[data.Row]]:
    """Record cost and quality; return the breakdown by words, and the rows that were compared."""
    # Costs first: each is measured in a process of its own, while no model is in memory here.
    costs = {
        name: run.measure_cost(path) for name, path in _announce_each(options, "speed and memory")
    }
    # Only the first model stays in memory, because the others are compared with it.
    baseline = run.open_model(options.models[metrics.baseline])
    scores: dict[str, scoring.ModelScores] = {}
    for name, path in _announce_each(options, f"reads {len(rows.rows)} rows"):
        scores[name] = scoring.score_rows(
            path, run.open_model(path) if scores else baseline, baseline, rows.rows, options
        )
    del baseline
    scores = scoring.select_comparable_rows(metrics, scores, rows)
    words = quality.collect_scored_words(scores)
    quality.add_quality(metrics, words, scores, options.tolerance)
    if score_task is not None:
        task_scores = {name: score_task(path) for name, path in _announce_each(options, "the task")}
        quality.add_task_scores(metrics, task_scores, options.tolerance)
    add_costs(metrics, costs, scores, options)
    breakdown = quality.add_word_bins(metrics, words)
    return breakdown, [rows.rows[row_id] for row_id in scores[metrics.baseline]]


def _compare_completions(
    metrics: ComparisonMetrics, options: CompareOptions, rows: list[data.Row]
) -> tuple[list[report.Sample], str]:
    """Generate completions, record judgements on them, and return samples and the new sheet."""
    prompt_rows = scoring.select_prompts(rows, options.prompts)
    prompts = [data.readable_prompt(row) for row in prompt_rows]
    completions = {
        name: scoring.generate_completions(run.open_model(path), prompt_rows, options)
        for name, path in _announce_each(options, f"answers {len(prompts)} prompts")
    }
    pairs = human_eval.make_blind_pairs(prompts, completions)
    judgements = human_eval.read_sheet(options.judgements, pairs) if options.judgements else {}
    if options.judgements:
        human_eval.add_preferences(metrics, pairs, judgements)
    samples = [
        report.Sample(prompt, {name: texts[index] for name, texts in completions.items()})
        for index, prompt in enumerate(prompts)
    ]
    return samples, human_eval.format_sheet(pairs, judgements)


def _announce_each(options: CompareOptions, activity: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each model, and print its turn, which may take minutes."""
    for number, (name, path) in enumerate(options.models.items(), start=1):
        _print_text(f"{name} ({number}/{len(options.models)}): {activity}")
        yield name, path


def _describe_methods(metrics: ComparisonMetrics, options: CompareOptions) -> dict[str, str]:
    config = options.data
    text = "the answers" if config.loss_on == "completion" else "the whole text"
    facts = {
        "Rows": f"{metrics.show(ALL_MODELS, 'rows')} of {', '.join(config.sources)}, as "
        f"{config.prompt_template} text of at most {config.length} tokens.",
        "Words": f"{metrics.show(ALL_MODELS, 'words')}. A word stands between spaces, so models "
        "with different tokenizers can be compared; special tokens belong to no word.",
        "Bits per byte": f"Negative log-likelihood of the words of {text}, per byte.",
        "Intervals": "95 %, by a bootstrap over rows, paired for differences. Fewer than "
        f"{MIN_ROWS} rows give none. Those that find the words on which a model falls behind most "
        "are wider (Bonferroni); that of the preference is exact (Clopper and Pearson).",
        "Answers": f"Greedy decoding, at most {options.max_new_tokens} tokens.",
        "Speed": f"One answer of {run.NEW_TOKENS} tokens after a prompt of {run.PROMPT_TOKENS}, "
        "the fastest of several runs. Measured speed varies, so a measured saving must exceed "
        f"{100 * MIN_MEASURED_SAVING:g} % to count, one of given prices {100 * MIN_SAVING:g} %.",
    }
    if options.machine_price is not None:
        price = metrics.format_price(options.machine_price)
        facts["Price"] = f"{price} for an hour of this machine, one answer at a time."
    facts |= {f"Model {name}": path for name, path in options.models.items()}
    platform = jax.devices()[0].platform
    made_with = f"jaxdistill {jaxdistill.__version__}, on {platform}, {date.today()}"
    return facts | {"Made with": f"{made_with}: {options.command}".removesuffix(": ")}


def _find_output_folder(options: CompareOptions) -> Path:
    """Return `out`, or a new folder beside it if that holds unread judgements or other files."""
    out = options.out.resolve()  # `.` has no name to extend
    sheet = out / human_eval.SHEET_NAME
    # Desktops and spreadsheets leave hidden files in every folder.
    names = {path.name for path in out.glob("[!.]*")}
    is_read = options.judgements and Path(options.judgements).resolve() == sheet.resolve()
    is_kept = is_read or not sheet.exists() or not human_eval.has_judgements(sheet)
    if is_kept and names <= set(OUTPUT_FILES):
        return options.out
    folders = (out.with_name(f"{out.name}-{number}") for number in count(2))
    return next(folder for folder in folders if not folder.exists())


def _print_page(page: ComparisonPage) -> None:
    advice, sections = page.recommendation.advice, page.metrics.table_sections()
    report.print_table(page.options.models, [row for rows in sections.values() for row in rows])
    lines = ["", describe_excluded_rows(page.metrics, page.options.data.length)]
    lines += ["", page.recommendation.headline]
    for candidate, _, reasons in advice:
        lines += [f"{candidate}:"] if len(advice) > 1 else []
        lines += [f"- {reason}" for reason in reasons]
    for name, worst_bin in page.breakdown.worst_bin.items():
        where = (
            f"it falls behind most on {worst_bin}" if worst_bin else "no kind of words stands out"
        )
        lines.append(f"- {name}: {where}.")
    lines += ["", *(f"{page.options.out / name}" for name in OUTPUT_FILES)]
    _print_text("\n".join(lines))


def _print_text(text: str) -> None:
    text = report.strip_control_characters(text)
    rich.get_console().print(text, markup=False, highlight=False, soft_wrap=True)
