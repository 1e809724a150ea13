"""The page that a decision is taken on: the recommendation first, then all that it rests on."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

from jaxdistill.compare.breakdown import breakdown_html
from jaxdistill.compare.differences import marked
from jaxdistill.compare.html import cell, said
from jaxdistill.compare.measure import Breakdown
from jaxdistill.compare.recommend import Advice, Recommendation, headline
from jaxdistill.compare.record import ALL, Record, Sentence, counted, table
from jaxdistill.report import Sample, document, draw_intervals, escaped, facts, scrolled


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page says.

    Attributes:
        models: The names of the models, the one in use first.
        record: All numbers.
        recommendation: What to do.
        breakdown: Where each candidate pays most.
        samples: What the models answer.
        sheet: Where the sheet for people's judgements is written.
        has_judgements: Whether it was read.
        left_out: How many rows were left out, and why.
        facts: How all this was measured, by name.
    """

    models: Sequence[str]
    record: Record
    recommendation: Recommendation
    breakdown: Breakdown
    samples: Sequence[Sample]
    sheet: Path
    has_judgements: bool
    left_out: Sentence
    facts: Mapping[str, Sentence]


def html(page: Page) -> str:
    """The page as HTML. Every number in it says which one of the record it is."""
    first, *candidates = page.models
    lead: Sentence = (
        f"Can {' or '.join(candidates)} take the place of {first}? All read the same ",
        *counted(page.record.said(ALL, "rows"), "row"),
        ". ",
        *page.left_out,
    )
    sections = {
        "Recommendation": _recommendation(page),
        "At a glance": _table(page) + _picture(page),
        **{
            f"Where {name} falls behind": breakdown_html(
                page.record, page.breakdown, name, first=first
            )
            for name in candidates
        },
        "Side by side": _samples(page),
        "What people say": _people(page),
        "How this was measured": facts({k: said(v) for k, v in page.facts.items()}),
    }
    title = f"{' and '.join(candidates)} beside {first}"
    css = resources.files("jaxdistill.compare").joinpath("compare.css").read_text(encoding="utf-8")
    return document(title, said(lead), sections, css=css)


def left_out(record: Record, models: Sequence[str], length: int) -> Sentence:
    """How many rows were not compared, and why."""
    reasons: list[Sentence] = [
        (record.said(name, quantity), about)
        for name, quantity, about in (
            *((one, "rows_too_long", f" too long for {one} at {length} tokens") for one in models),
            (ALL, "rows_in_other_words", " in other words"),
            (ALL, "blank_rows", " of blanks only"),
        )
        if record.get(name, quantity) is not None
    ]
    num_read = counted(record.said(ALL, "rows_read"), "row")
    found: Sentence = (record.said(ALL, "rows_left_out"), " of ", *num_read, " left out")
    for reason, start in zip(reasons, (": ", *[", "] * len(reasons)), strict=False):
        found = (*found, start, *reason)
    return (*found, ".")


def _recommendation(page: Page) -> str:
    found = page.recommendation
    advice = "\n".join(_advice(one, len(found.advice) > 1) for one in found.advice)
    return (
        f'<div class="verdict {found.verdict}">\n'
        f'<p class="headline">{said(headline(found, page.record))}</p>\n{advice}\n</div>'
    )


def _advice(advice: Advice, is_one_of_many: bool) -> str:
    said_of = {
        "take": "could be taken",
        "keep": "is not taken",
        "unclear": "cannot be told",
        "disputed": "is disputed",
    }
    name = f"<h3>{escaped(advice.candidate)} {said_of[advice.verdict]}</h3>\n"
    reasons = "\n".join(f"<li>{_reason(reason)}</li>" for reason in advice.reasons)
    return f"{name if is_one_of_many else ''}<ul>\n{reasons}\n</ul>"


def _reason(reason: Sentence) -> str:
    """A reason, what it is about in bold."""
    start, *rest = reason
    assert isinstance(start, str)
    about, colon, more = start.partition(": ")
    return f"<strong>{escaped(about)}</strong>{colon}{said((more, *rest))}"


def _table(page: Page) -> str:
    main = [name == page.recommendation.model for name in page.models]
    marks = [' class="main"' if is_main else "" for is_main in main]
    heads = "".join(
        f'<th scope="col"{mark}>{escaped(name)}'
        f"<small>{'in use' if name == page.models[0] else 'candidate'}</small></th>"
        for name, mark in zip(page.models, marks, strict=True)
    )
    bodies = "\n".join(
        f'<tbody>\n<tr class="group"><th scope="rowgroup" colspan="{1 + len(page.models)}">'
        f"{escaped(group)}</th></tr>\n"
        + "\n".join(_table_row(page, name, marks) for name in names)
        + "\n</tbody>"
        for group, names in table(page.record).items()
    )
    return scrolled(
        "At a glance",
        "<table>\n"
        f"<caption>In brackets: where the number lies with 95 % confidence. “The first” is "
        f"{escaped(page.models[0])}.</caption>\n"
        f'<thead><tr><th scope="col">Quantity</th>{heads}</tr></thead>\n{bodies}\n</table>',
    )


def _table_row(page: Page, quantity: str, marks: Sequence[str]) -> str:
    about = page.record.quantity(quantity)
    better = f"<small>{about.direction}</small>" if about.better else ""
    cells = "".join(
        f"<td{mark}>{cell(page.record, name, quantity)}</td>"
        for name, mark in zip(page.models, marks, strict=True)
    )
    return f'<tr><th scope="row">{escaped(about.label)}{better}</th>{cells}</tr>'


def _picture(page: Page) -> str:
    intervals = {}
    for name in page.models:
        line = page.record.get(name, "bits_per_byte")
        assert line is not None
        if line.low is None or line.high is None:
            return ""  # there is nothing but a dot to draw
        intervals[name] = (line.value, line.low, line.high)
    return (
        "\n<figure>\n<figcaption>How well each predicts the text</figcaption>\n"
        f"{draw_intervals(page.record.quantity('bits_per_byte'), intervals)}</figure>"
    )


def _samples(page: Page) -> str:
    if not page.samples:
        return ""
    note = (
        f'<p class="lead">What a candidate says differently from {escaped(page.models[0])} is '
        "<mark>underlined</mark>.</p>"
    )
    return "\n".join([note, *(_sample(page.models[0], sample) for sample in page.samples)])


def _sample(first: str, sample: Sample) -> str:
    answers = "\n".join(
        f'<div><dt>{escaped(name)}</dt><dd class="text">'
        f"{_answer(_tight(answer), _tight(sample.answers[first]), is_first=name == first)}"
        "</dd></div>"
        for name, answer in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<h3 class="prompt text">{escaped(sample.prompt)}</h3>\n'
        f'<dl class="answers">\n{answers}\n</dl>\n</article>'
    )


def _tight(answer: str) -> str:
    """An answer without holes: one blank line at most between two others."""
    return re.sub(r"\n\s*\n", "\n\n", answer.strip())


def _answer(answer: str, first: str, *, is_first: bool) -> str:
    if not answer:
        return '<span class="none">[no answer]</span>'
    if is_first:
        return escaped(answer)
    return "".join(
        f"<mark>{escaped(piece)}</mark>" if differs else escaped(piece)
        for piece, differs in marked(answer, first)
    )


def _people(page: Page) -> str:
    if not page.has_judgements:
        return (
            "<p>Nobody was asked yet. <code>judgements.csv</code>, beside this page, holds the "
            "answers above in an order that does not tell whose they are. Write 1, 2 or tie into "
            "its column <code>better</code>, and run the comparison again with "
            f"<code>--judgements {escaped(shlex.quote(str(page.sheet)))}</code>.</p>"
        )
    lines = "\n".join(_judged(page, name) for name in page.models[1:])
    return f"<ul>\n{lines}\n</ul>"


def _judged(page: Page, name: str) -> str:
    record = page.record
    counts: list[Sentence] = [
        (record.said(name, quantity), f" {what}")
        for quantity, what in (
            ("wins", f"better than {page.models[0]}'s"),
            ("ties", "as good"),
            ("losses", "worse"),
            ("not_judged", "not judged"),
        )
    ]
    sentence: Sentence = (f"{name}'s answers: ", *counts[0])
    for _, count in pairwise(counts):
        sentence = (*sentence, ", ", *count)
    if record.get(name, "preferred") is not None:
        preferred = record.said(name, "preferred")
        interval = record.interval(name, "preferred")
        sentence = (*sentence, ". Its share, ties as halves: ", preferred, *interval)
    return f"<li>{said((*sentence, '.'))}</li>"
