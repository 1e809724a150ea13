"""A comparison from its options to its folder: the one place where its parts meet."""

from collections.abc import Mapping
from pathlib import Path

import jax
import rich

import jaxdistill
from jaxdistill import data, report, run
from jaxdistill.compare.judgements import (
    Judgement,
    Pair,
    measure_judgements,
    pairs,
    read_sheet,
    sheet,
    write_sheet,
)
from jaxdistill.compare.measure import (
    Breakdown,
    measure_bins,
    measure_costs,
    measure_quality,
    scored_words,
)
from jaxdistill.compare.options import FILES, Options, check_out
from jaxdistill.compare.page import Page, html
from jaxdistill.compare.reading import Reading, questions, read, shared, text_rows
from jaxdistill.compare.recommend import Recommendation, headline, recommend
from jaxdistill.compare.record import ALL, Record, Sentence, plain, table
from jaxdistill.evals import Task
from jaxdistill.files import whole_directory


def compare(options: Options) -> Path:
    """Compare the models, write the folder, and print what came of it.

    Returns:
        The page.

    Raises:
        UserError: when a model, a row, a judgement or the folder is not as it should be.
    """
    rows = text_rows(options.data.sources, as_chat=options.data.prompt_template == "chat")
    task = run.read_task(options.task) if options.task else None
    if options.judgements:
        list(sheet(options.judgements))  # what is wrong with the file itself is told at once
    record = Record(options.currency)
    # Before any model is held here: each is measured in a process of its own.
    costs = {name: run.cost(path) for name, path in options.models.items()}
    readings = _read_all(options, rows)
    kept = shared(list(readings.values()))
    scored = scored_words(readings, kept)
    measure_quality(record, scored, readings, kept, options.tolerance)
    record.add(ALL, "rows_left_out", len(rows) - len(kept))
    if task is not None:
        _measure_task(record, options, task)
    measure_costs(record, costs, readings, kept, options)
    breakdowns = measure_bins(record, scored)

    asked = [data.asked(row) for row in questions(rows, options.prompts)]
    answers = {name: reading.answers for name, reading in readings.items()}
    found = pairs(asked, answers)
    judged = read_sheet(options.judgements, found) if options.judgements else {}
    if options.judgements:
        measure_judgements(record, options.candidates, found, judged)
    page = Page(
        models=list(options.models),
        record=record,
        recommendation=recommend(record, options.first, options.candidates),
        breakdowns=breakdowns,
        samples=[
            report.Sample(prompt, {name: texts[place] for name, texts in answers.items()})
            for place, prompt in enumerate(asked)
        ],
        has_judgements=bool(options.judgements),
        facts=_facts(record, options),
    )
    _write(options, page, found, judged)
    _print(options, page.recommendation, record, breakdowns)
    return options.out / FILES[0]


def _read_all(options: Options, rows: list[data.Row]) -> dict[str, Reading]:
    """What every model says: the first stays in memory, the others come and go."""
    guide = run.open_model(options.models[options.first])
    readings = {options.first: read(options.models[options.first], guide, None, rows, options)}
    for name in options.candidates:
        path = options.models[name]
        readings[name] = read(path, run.open_model(path), guide, rows, options)
    return readings


def _measure_task(record: Record, options: Options, task: Task) -> None:
    for name, path in options.models.items():
        scores = run.evaluate_task(
            path, task, sources=options.data.sources, batch_size=options.batch_size
        )
        for metric, estimate in scores.items():
            record.add(name, f"task/{metric}", estimate)


def _facts(record: Record, options: Options) -> dict[str, Sentence]:
    config = options.data
    read = "the answers" if config.loss_on == "completion" else "the whole text"
    device = jax.devices()[0]
    found: dict[str, Sentence] = {
        "Rows": (
            record.said(ALL, "rows"),
            f" of {', '.join(config.sources)}; ",
            record.said(ALL, "rows_left_out"),
            f" left out, for they are longer than {config.length} tokens of some model, or not "
            "the same words to all of them.",
        ),
        "Words": (
            record.said(ALL, "words"),
            ". A word is what stands between spaces, so that models with different tokenizers can "
            "be compared; the mark that ends an answer belongs to none.",
        ),
        "Bits per byte": (
            f"How many bits a model needs for a byte of the words of {read} "
            f"({config.prompt_template} prompts): the better it predicts them, the fewer.",
        ),
        "Intervals": (
            "95 %, by drawing the rows again with replacement, the same ones for both models of "
            "a difference.",
        ),
        "Answers": (
            f"The likeliest token each time, {options.max_new_tokens} at most; an answer may be "
            "broken off there.",
        ),
        "Speed": (
            "One answer at a time, 64 tokens after a prompt of 32, each model in a process of "
            "its own; the best of three.",
        ),
        **{f"Model {name}": (path,) for name, path in options.models.items()},
        "Made with": (f"jaxdistill {jaxdistill.__version__}, on {device.platform}",),
    }
    if options.machine_price is not None:
        price = f"{options.currency}{options.machine_price:g} for an hour of this machine"
        found["Price"] = (f"{price}, one answer at a time.",)
    return found


def _write(
    options: Options, page: Page, found: list[Pair], judged: Mapping[int, Judgement]
) -> None:
    # Once more, for a person may have judged while the models were read.
    check_out(options.out, options.judgements)
    contents = (html(page), page.record.jsonl(), write_sheet(found, judged))
    with whole_directory(options.out) as folder:
        for name, text in zip(FILES, contents, strict=True):
            (folder / name).write_bytes(text.encode())


def _print(
    options: Options,
    recommendation: Recommendation,
    record: Record,
    breakdowns: Mapping[str, Breakdown],
) -> None:
    lines = []
    for quantity in (name for names in table(record).values() for name in names):
        about = record.quantity(quantity)
        label = about.label + report.ARROWS[about.better]
        lines.append([label, *(_cell(record, name, quantity) for name in options.models)])
    report.print_table(["", *options.models], lines)
    text = ["", plain(headline(recommendation, record))]
    for advice in recommendation.advice:
        text += [f"{advice.candidate}:"] if len(recommendation.advice) > 1 else []
        text += [f"- {plain(reason)}" for reason in advice.reasons]
    text += [
        f"- {name} falls behind most on {breakdown.worst}."
        for name, breakdown in breakdowns.items()
    ]
    text += ["", *(f"{options.out / name}" for name in FILES)]
    shown = report.printable("\n".join(text))
    rich.get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def _cell(record: Record, model: str, quantity: str) -> str:
    if record.get(model, quantity) is None:
        return "–"
    number: Sentence = (record.said(model, quantity),)
    interval = record.interval(model, quantity)
    return plain((*number, " ", *interval) if interval else number)
