"""A comparison from its options to its folder: the one place where its parts meet."""

from collections.abc import Callable, Iterator
from datetime import date
from itertools import count
from pathlib import Path

import jax
import numpy as np
import rich
from jaxtyping import Float

import jaxdistill
from jaxdistill import data, report, run
from jaxdistill.compare.command_line import format_command
from jaxdistill.compare.costs import add_costs
from jaxdistill.compare.decision_rules import MIN_MEASURED_SAVING, MIN_ROWS, MIN_SAVING
from jaxdistill.compare.human_eval import (
    add_preferences,
    format_sheet,
    make_blind_pairs,
    read_numbered_rows,
    read_sheet,
)
from jaxdistill.compare.metrics import (
    ALL_MODELS,
    ComparisonMetrics,
    Sentence,
    format_plain,
    list_table_sections,
)
from jaxdistill.compare.options import (
    JUDGEMENTS_FILE,
    METRICS_FILE,
    OUTPUT_FILES,
    PAGE_FILE,
    CompareOptions,
    check_output_folder,
)
from jaxdistill.compare.page import ComparisonPage, describe_excluded_rows, render_page
from jaxdistill.compare.quality import (
    WordBreakdown,
    add_excluded_rows,
    add_quality,
    add_required_rows,
    add_task_scores,
    add_word_bins,
    collect_scored_words,
)
from jaxdistill.compare.recommendation import format_headline, recommend
from jaxdistill.compare.scoring import (
    ModelScores,
    find_comparable_rows,
    generate_completions,
    read_text_rows,
    score_rows,
    select_prompts,
)
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.files import atomic_directory


def compare(options: CompareOptions) -> Path:
    """Compare the models, write the folder, and print what came of it.

    Returns:
        The page.

    Raises:
        UserError: when a model, a row, a judgement or the folder is not as it should be.
    """
    rows, num_blank = read_text_rows(
        options.data.sources, as_chat=options.data.prompt_template == "chat"
    )
    # What is wrong with the files is told at once, before hours of measuring.
    ask_task = _make_task_scorer(options) if options.task else None
    if options.judgements:
        read_numbered_rows(options.judgements, options.prompts * len(options.candidates))
    record = ComparisonMetrics(options.currency)
    breakdown, kept = _measure_models(record, options, rows, num_blank, ask_task)

    asking = select_prompts([rows[row_id] for row_id in kept], options.prompts)
    asked = [data.readable_prompt(row) for row in asking]
    answered = {
        name: generate_completions(run.open_model(path), asking, options)
        for name, path in _announce_each(options, f"answers {len(asking)} prompts")
    }
    found = make_blind_pairs(asked, answered)
    judged = read_sheet(options.judgements, found) if options.judgements else {}
    if options.judgements:
        add_preferences(record, options.candidates, found, judged)
    out, trouble = _choose_output_folder(options)
    page = ComparisonPage(
        models=list(options.models),
        metrics=record,
        recommendation=recommend(record, options.baseline, options.candidates),
        breakdown=breakdown,
        samples=[
            report.Sample(prompt, {name: texts[place] for name, texts in answered.items()})
            for place, prompt in enumerate(asked)
        ],
        judgements_path=out / JUDGEMENTS_FILE,
        has_judgements=bool(options.judgements),
        excluded_rows=describe_excluded_rows(record, list(options.models), options.data.length),
        facts=_describe_methods(record, options),
    )
    _write_folder(out, page, format_sheet(found, judged))
    _print_page(page, out, trouble)
    return out / PAGE_FILE


_ScoreTask = Callable[[str], dict[str, Float[np.ndarray, " R"]]]
"""Where a model is in; each metric of every row out."""


def _make_task_scorer(options: CompareOptions) -> _ScoreTask:
    task = run.load_task(str(options.task))
    asked = run.make_task_prompts(task, options.data.sources)
    findings = ErrorCollector()
    for name, path in options.models.items():
        with findings.collect(f"--task: {name}"):
            run.check_task(path, task, asked)
    findings.raise_if_any()
    return lambda path: run.score_task(path, task, asked, batch_size=options.batch_size)


def _measure_models(
    metrics: ComparisonMetrics,
    options: CompareOptions,
    rows: list[data.Row],
    num_blank: int,
    score_task: _ScoreTask | None,
) -> tuple[WordBreakdown, list[int]]:
    """Note every number that needs no person, and tell which rows can be compared."""
    # Before any model is held here: each is measured in a process of its own.
    costs = {
        name: run.measure_cost(path) for name, path in _announce_each(options, "speed and memory")
    }
    readings = _score_all_models(options, rows)
    found = find_comparable_rows(readings, len(rows))
    kept = found.example_ids
    scored = collect_scored_words(readings, kept)
    add_quality(metrics, scored, readings, kept, options.tolerance)
    add_excluded_rows(metrics, found, num_rows=len(rows), num_blank=num_blank)
    if score_task is not None:
        scores = {name: score_task(path) for name, path in _announce_each(options, "the task")}
        add_task_scores(metrics, scores, options.tolerance)
    add_required_rows(metrics, options.baseline, options.candidates)
    add_costs(metrics, costs, readings, kept, options)
    return add_word_bins(metrics, scored), kept


def _score_all_models(options: CompareOptions, rows: list[data.Row]) -> dict[str, ModelScores]:
    """What every model says: the first stays in memory, the others come and go."""
    guide = run.open_model(options.models[options.baseline])
    readings: dict[str, ModelScores] = {}
    for name, path in _announce_each(options, f"reads {len(rows)} rows"):
        if name == options.baseline:
            readings[name] = score_rows(path, guide, None, rows, options)
        else:
            readings[name] = score_rows(path, run.open_model(path), guide, rows, options)
    return readings


def _announce_each(options: CompareOptions, activity: str) -> Iterator[tuple[str, str]]:
    """The models, the first one first, each told as its turn comes: it may take minutes."""
    console = rich.get_console()
    for number, (name, path) in enumerate(options.models.items(), start=1):
        line = f"{name} ({number}/{len(options.models)}): {activity}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        yield name, path


def _describe_methods(metrics: ComparisonMetrics, options: CompareOptions) -> dict[str, Sentence]:
    config = options.data
    read = "the answers" if config.loss_on == "completion" else "the whole text"
    device = jax.devices()[0]
    found: dict[str, Sentence] = {
        "Rows": (
            metrics.show(ALL_MODELS, "rows"),
            f" of {', '.join(config.sources)}, as {config.prompt_template} text of at most "
            f"{config.length} tokens.",
        ),
        "Words": (
            metrics.show(ALL_MODELS, "words"),
            ". A word is what stands between spaces, so that models with different tokenizers can "
            "be compared; the mark that ends an answer belongs to none.",
        ),
        "Bits per byte": (
            f"How many bits a model needs for a byte of the words of {read} "
            f"({config.prompt_template} prompts): the better it predicts them, the fewer.",
        ),
        "Intervals": (
            "95 %, by drawing the rows again with replacement, the same ones for both models of "
            "a difference; what fewer rows than "
            f"{MIN_ROWS} say has none. To say where a model falls behind most, intervals are "
            "widened by the number of kinds of words. That of people's preference is the exact "
            "one of Clopper and Pearson.",
        ),
        "Answers": (
            f"The likeliest token each time, {options.max_new_tokens} at most; an answer may be "
            "broken off there.",
        ),
        "Speed": (
            f"One answer at a time, {run.NEW_TOKENS} tokens after a prompt of {run.PROMPT_TOKENS}, "
            "each model in a process of its own, one after the other on this machine; the fastest "
            "of several takes. Speeds, and prices that follow from them, differ from take to take: "
            f"they decide where more than {100 * MIN_MEASURED_SAVING:g} % of the time or the price "
            f"is saved, of given prices more than {100 * MIN_SAVING:g} %.",
        ),
        **{f"Model {name}": (path,) for name, path in options.models.items()},
        "Made with": (
            f"jaxdistill {jaxdistill.__version__}, on {device.platform}, {date.today()}: "
            f"{format_command(options)}",
        ),
    }
    if options.machine_price is not None:
        price = (
            f"{options.currency}{_format_price(options.machine_price)} for an hour of this machine"
        )
        found["Price"] = (f"{price}, one answer at a time.",)
    return found


def _format_price(price: float) -> str:
    return f"{price:,.2f}" if round(price, 2) == price else f"{price:g}"


def _choose_output_folder(options: CompareOptions) -> tuple[Path, str]:
    """Where the folder can be written, and what stands in the way of the one that was named.

    A person may have judged, or kept something there, while the models were read: neither that
    nor the work of these hours is lost.
    """
    try:
        check_output_folder(options.out, options.judgements)
    except UserError as error:
        beside = (options.out.with_name(f"{options.out.name}-{n}") for n in count(2))
        out = next(path for path in beside if not path.exists())
        return out, f"{error} This comparison is written to {out} instead."
    return options.out, ""


def _write_folder(out: Path, page: ComparisonPage, sheet: str) -> None:
    contents = {
        PAGE_FILE: render_page(page),
        METRICS_FILE: page.metrics.to_jsonl(),
        JUDGEMENTS_FILE: sheet,
    }
    with atomic_directory(out) as folder:
        for name, text in contents.items():
            (folder / name).write_bytes(text.encode())


def _print_page(page: ComparisonPage, out: Path, warning: str) -> None:
    record, recommendation = page.metrics, page.recommendation
    lines = []
    for quantity in (name for names in list_table_sections(record).values() for name in names):
        about = record.quantity(quantity)
        label = about.label + report.DIRECTION_ARROWS[about.better]
        lines.append([label, *(_format_cell(record, name, quantity) for name in page.models)])
    report.print_table(["", *page.models], lines)
    text = [
        "",
        format_plain(page.excluded_rows),
        "",
        format_plain(format_headline(recommendation, record)),
    ]
    for advice in recommendation.advice:
        text += [f"{advice.candidate}:"] if len(recommendation.advice) > 1 else []
        text += [f"- {format_plain(reason)}" for reason in advice.reasons]
    text += [
        f"- {name} falls behind most on {worst}."
        if worst
        else f"- {name} falls clearly behind nowhere."
        for name, worst in page.breakdown.worst_bin.items()
    ]
    text += ["", *(f"{out / name}" for name in OUTPUT_FILES)]
    text += ["", warning] if warning else []
    shown = report.strip_control_characters("\n".join(text))
    rich.get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def _format_cell(metrics: ComparisonMetrics, model: str, quantity: str) -> str:
    if metrics.get(model, quantity) is None:
        return "–"
    return format_plain((metrics.show(model, quantity), *metrics.show_interval(model, quantity)))
