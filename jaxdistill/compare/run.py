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
from jaxdistill.compare.again import command
from jaxdistill.compare.costs import measure_costs
from jaxdistill.compare.judgements import (
    check_sheet,
    measure_judgements,
    pairs,
    read_sheet,
    write_sheet,
)
from jaxdistill.compare.measure import (
    Breakdown,
    measure_bins,
    measure_left_out,
    measure_quality,
    measure_rows_to_tell,
    measure_task,
    scored_words,
)
from jaxdistill.compare.options import FILES, NUMBERS, PAGE, SHEET, Options, check_out
from jaxdistill.compare.page import Page, html, left_out
from jaxdistill.compare.reading import (
    Reading,
    answers,
    questions,
    read,
    shared,
    text_rows,
)
from jaxdistill.compare.recommend import headline, recommend
from jaxdistill.compare.record import ALL, Record, Sentence, plain, table
from jaxdistill.compare.rules import FEWEST_ROWS, NOTICEABLE, NOTICEABLE_MEASURED
from jaxdistill.errors import Findings, UserError
from jaxdistill.files import whole_directory


def compare(options: Options) -> Path:
    """Compare the models, write the folder, and print what came of it.

    Returns:
        The page.

    Raises:
        UserError: when a model, a row, a judgement or the folder is not as it should be.
    """
    rows, num_blank = text_rows(
        options.data.sources, as_chat=options.data.prompt_template == "chat"
    )
    # What is wrong with the files is told at once, before hours of measuring.
    ask_task = _task(options) if options.task else None
    if options.judgements:
        check_sheet(options.judgements, options.prompts * len(options.candidates))
    record = Record(options.currency)
    breakdown, kept = _measure(record, options, rows, num_blank, ask_task)

    asking = questions([rows[row_id] for row_id in kept], options.prompts)
    asked = [data.asked(row) for row in asking]
    answered = {
        name: answers(run.open_model(path), asking, options)
        for name, path in _told(options, f"answers {len(asking)} prompts")
    }
    found = pairs(asked, answered)
    judged = read_sheet(options.judgements, found) if options.judgements else {}
    if options.judgements:
        measure_judgements(record, options.candidates, found, judged)
    out, trouble = _free(options)
    page = Page(
        models=list(options.models),
        record=record,
        recommendation=recommend(record, options.first, options.candidates),
        breakdown=breakdown,
        samples=[
            report.Sample(prompt, {name: texts[place] for name, texts in answered.items()})
            for place, prompt in enumerate(asked)
        ],
        sheet=out / SHEET,
        has_judgements=bool(options.judgements),
        left_out=left_out(record, list(options.models), options.data.length),
        facts=_facts(record, options),
    )
    _write(out, page, write_sheet(found, judged))
    _print(page, out, trouble)
    return out / PAGE


_AskTask = Callable[[str], dict[str, Float[np.ndarray, " R"]]]
"""Where a model is in; each metric of every row out."""


def _task(options: Options) -> _AskTask:
    task = run.read_task(str(options.task))
    asked = run.task_questions(task, options.data.sources)
    findings = Findings()
    for name, path in options.models.items():
        with findings.collect(f"--task: {name}"):
            run.check_task(path, task, asked)
    findings.raise_any()
    return lambda path: run.task_scores(path, task, asked, batch_size=options.batch_size)


def _measure(
    record: Record,
    options: Options,
    rows: list[data.Row],
    num_blank: int,
    ask_task: _AskTask | None,
) -> tuple[Breakdown, list[int]]:
    """Note every number that needs no person, and tell which rows can be compared."""
    # Before any model is held here: each is measured in a process of its own.
    costs = {name: run.cost(path) for name, path in _told(options, "speed and memory")}
    readings = _read_all(options, rows)
    found = shared(readings, len(rows))
    kept = found.rows
    scored = scored_words(readings, kept)
    measure_quality(record, scored, readings, kept, options.tolerance)
    measure_left_out(record, found, num_rows=len(rows), num_blank=num_blank)
    if ask_task is not None:
        scores = {name: ask_task(path) for name, path in _told(options, "the task")}
        measure_task(record, scores, options.tolerance)
    measure_rows_to_tell(record, options.first, options.candidates)
    measure_costs(record, costs, readings, kept, options)
    return measure_bins(record, scored), kept


def _read_all(options: Options, rows: list[data.Row]) -> dict[str, Reading]:
    """What every model says: the first stays in memory, the others come and go."""
    guide = run.open_model(options.models[options.first])
    readings: dict[str, Reading] = {}
    for name, path in _told(options, f"reads {len(rows)} rows"):
        if name == options.first:
            readings[name] = read(path, guide, None, rows, options)
        else:
            readings[name] = read(path, run.open_model(path), guide, rows, options)
    return readings


def _told(options: Options, what: str) -> Iterator[tuple[str, str]]:
    """The models, the first one first, each told as its turn comes: it may take minutes."""
    console = rich.get_console()
    for number, (name, path) in enumerate(options.models.items(), start=1):
        line = f"{name} ({number}/{len(options.models)}): {what}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        yield name, path


def _facts(record: Record, options: Options) -> dict[str, Sentence]:
    config = options.data
    read = "the answers" if config.loss_on == "completion" else "the whole text"
    device = jax.devices()[0]
    found: dict[str, Sentence] = {
        "Rows": (
            record.said(ALL, "rows"),
            f" of {', '.join(config.sources)}, as {config.prompt_template} text of at most "
            f"{config.length} tokens.",
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
            "a difference; what fewer rows than "
            f"{FEWEST_ROWS} say has none. To say where a model falls behind most, intervals are "
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
            f"they decide where more than {100 * NOTICEABLE_MEASURED:g} % of the time or the price "
            f"is saved, of given prices more than {100 * NOTICEABLE:g} %.",
        ),
        **{f"Model {name}": (path,) for name, path in options.models.items()},
        "Made with": (
            f"jaxdistill {jaxdistill.__version__}, on {device.platform}, {date.today()}: "
            f"{command(options)}",
        ),
    }
    if options.machine_price is not None:
        price = f"{options.currency}{_money(options.machine_price)} for an hour of this machine"
        found["Price"] = (f"{price}, one answer at a time.",)
    return found


def _money(price: float) -> str:
    return f"{price:,.2f}" if round(price, 2) == price else f"{price:g}"


def _free(options: Options) -> tuple[Path, str]:
    """Where the folder can be written, and what stands in the way of the one that was named.

    A person may have judged, or kept something there, while the models were read: neither that
    nor the work of these hours is lost.
    """
    try:
        check_out(options.out, options.judgements)
    except UserError as error:
        beside = (options.out.with_name(f"{options.out.name}-{n}") for n in count(2))
        out = next(path for path in beside if not path.exists())
        return out, f"{error} This comparison is written to {out} instead."
    return options.out, ""


def _write(out: Path, page: Page, sheet: str) -> None:
    contents = {PAGE: html(page), NUMBERS: page.record.jsonl(), SHEET: sheet}
    with whole_directory(out) as folder:
        for name, text in contents.items():
            (folder / name).write_bytes(text.encode())


def _print(page: Page, out: Path, trouble: str) -> None:
    record, recommendation = page.record, page.recommendation
    lines = []
    for quantity in (name for names in table(record).values() for name in names):
        about = record.quantity(quantity)
        label = about.label + report.ARROWS[about.better]
        lines.append([label, *(_cell(record, name, quantity) for name in page.models)])
    report.print_table(["", *page.models], lines)
    text = ["", plain(page.left_out), "", plain(headline(recommendation, record))]
    for advice in recommendation.advice:
        text += [f"{advice.candidate}:"] if len(recommendation.advice) > 1 else []
        text += [f"- {plain(reason)}" for reason in advice.reasons]
    text += [
        f"- {name} falls behind most on {worst}."
        if worst
        else f"- {name} falls clearly behind nowhere."
        for name, worst in page.breakdown.worst.items()
    ]
    text += ["", *(f"{out / name}" for name in FILES)]
    text += ["", trouble] if trouble else []
    shown = report.printable("\n".join(text))
    rich.get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def _cell(record: Record, model: str, quantity: str) -> str:
    if record.get(model, quantity) is None:
        return "–"
    return plain((record.said(model, quantity), *record.interval(model, quantity)))
