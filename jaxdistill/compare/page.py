"""The page that a decision is taken on: the recommendation first, then all that it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise

from jaxdistill.compare.differences import marked
from jaxdistill.compare.measure import Breakdown
from jaxdistill.compare.recommend import Advice, Recommendation, headline
from jaxdistill.compare.record import ALL, Number, Record, Sentence, table
from jaxdistill.report import Sample, document, draw_intervals, escaped, facts

_ARROWS = {"less": "less is better", "more": "more is better", None: ""}
_BREAKDOWNS = {
    "frequency": "By how often a word occurs in these rows",
    "position": "By where a word stands in its answer",
    "length": "By how long the answer is",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page says.

    Attributes:
        models: The names of the models, the one in use first.
        record: All numbers.
        recommendation: What to do.
        breakdowns: Where each candidate pays most.
        samples: What the models answer.
        has_judgements: Whether people's judgements were read.
        facts: How all this was measured, by name.
    """

    models: Sequence[str]
    record: Record
    recommendation: Recommendation
    breakdowns: Mapping[str, Breakdown]
    samples: Sequence[Sample]
    has_judgements: bool
    facts: Mapping[str, Sentence]


def html(page: Page) -> str:
    """The page as HTML. Every number in it says which one of the record it is."""
    first, *candidates = page.models
    lead: Sentence = (
        f"Can {' or '.join(candidates)} take the place of {first}? All read the same ",
        page.record.said(ALL, "rows"),
        " rows.",
    )
    sections = {
        "Recommendation": _recommendation(page),
        "At a glance": _table(page) + _picture(page),
        **{f"Where {name} falls behind": _breakdown(page, name) for name in candidates},
        "Side by side": _samples(page),
        "What people say": _people(page),
        "How this was measured": facts({k: said(v) for k, v in page.facts.items()}),
    }
    title = f"{' and '.join(candidates)} beside {first}"
    css = resources.files("jaxdistill.compare").joinpath("compare.css").read_text(encoding="utf-8")
    return document(title, said(lead), sections, css=css)


def said(sentence: Sentence) -> str:
    """A sentence as HTML."""
    return "".join(escaped(part) if isinstance(part, str) else _data(part) for part in sentence)


def _data(number: Number) -> str:
    line = number.line
    names = {"model": line.model, "quantity": line.quantity, "bin": line.bin, "end": number.end}
    marks = "".join(f' data-{name}="{escaped(text)}"' for name, text in names.items() if text)
    return f'<data value="{getattr(line, number.end)!r}"{marks}>{escaped(number.text)}</data>'


def _recommendation(page: Page) -> str:
    found = page.recommendation
    advice = "\n".join(_advice(one, len(found.advice) > 1) for one in found.advice)
    return (
        f'<div class="verdict {found.verdict}">\n'
        f'<p class="headline">{said(headline(found, page.record))}</p>\n{advice}\n</div>'
    )


def _advice(advice: Advice, is_one_of_many: bool) -> str:
    said_of = {"take": "could be taken", "keep": "is not taken", "unclear": "cannot be told"}
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
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="At a glance">\n<table>\n'
        f"<caption>In brackets: where the number lies with 95 % confidence. “The first” is "
        f"{escaped(page.models[0])}.</caption>\n"
        f'<thead><tr><th scope="col">Quantity</th>{heads}</tr></thead>\n{bodies}\n</table>\n</div>'
    )


def _table_row(page: Page, quantity: str, marks: Sequence[str]) -> str:
    about = page.record.quantity(quantity)
    better = f"<small>{_ARROWS[about.better]}</small>" if about.better else ""
    cells = "".join(
        f"<td{mark}>{_cell(page.record, name, quantity)}</td>"
        for name, mark in zip(page.models, marks, strict=True)
    )
    return f'<tr><th scope="row">{escaped(about.label)}{better}</th>{cells}</tr>'


def _cell(record: Record, model: str, quantity: str, *, bin: str = "") -> str:
    if record.get(model, quantity, bin=bin) is None:
        return '<span aria-label="none">–</span>'
    interval = said(record.interval(model, quantity, bin=bin))
    number = said((record.said(model, quantity, bin=bin),))
    return number + (f"<small>{interval}</small>" if interval else "")


def _picture(page: Page) -> str:
    intervals = {}
    for name in page.models:
        line = page.record.get(name, "bits_per_byte")
        assert line is not None
        assert line.low is not None
        assert line.high is not None
        intervals[name] = (line.value, line.low, line.high)
    return (
        "\n<figure>\n<figcaption>How well each predicts the text</figcaption>\n"
        f"{draw_intervals('bits_per_byte', intervals)}</figure>"
    )


def _breakdown(page: Page, name: str) -> str:
    found, record = page.breakdowns[name], page.record
    scale = _Scale(record, name, [one for labels in found.bins.values() for one in labels])
    worst: Sentence = (
        f"It falls behind most on {found.worst}: ",
        record.said(name, "extra_bits_per_byte", bin=found.worst),
        f" bits per byte beside {page.models[0]} ",
        *record.interval(name, "extra_bits_per_byte", bin=found.worst),
        ".",
    )
    groups = "\n".join(
        f'<tbody>\n<tr class="group"><th scope="rowgroup" colspan="3">'
        f"{_BREAKDOWNS[breakdown]}</th></tr>\n"
        + "\n".join(_bin_row(record, name, label, scale, label == found.worst) for label in labels)
        + "\n</tbody>"
        for breakdown, labels in found.bins.items()
    )
    return (
        f'<p class="lead">{said(worst)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Where {escaped(name)} falls '
        'behind">\n<table class="bins">\n'
        '<thead><tr><th scope="col">Words</th><th scope="col">Extra bits per byte</th>'
        f'<td class="bar"></td></tr></thead>\n{groups}\n</table>\n</div>'
    )


def _bin_row(record: Record, name: str, label: str, scale: "_Scale", is_worst: bool) -> str:
    count = said((record.said(ALL, "words", bin=label), " words"))
    return (
        f"<tr{' class=worst' if is_worst else ''}>"
        f'<th scope="row">{escaped(label)}<small>{count}</small></th>'
        f"<td>{_cell(record, name, 'extra_bits_per_byte', bin=label)}</td>"
        f'<td class="bar">{scale.bar(label)}</td></tr>'
    )


class _Scale:
    """Intervals as bars on one line, beside numbers that say the same."""

    def __init__(self, record: Record, name: str, labels: Sequence[str]):
        lines = {one: record.get(name, "extra_bits_per_byte", bin=one) for one in labels}
        self._ends = {
            label: (line.low or 0.0, line.value, line.high or 0.0)
            for label, line in lines.items()
            if line is not None
        }
        self._low = min(0.0, *(low for low, _, _ in self._ends.values()))
        self._high = max(0.0, *(high for _, _, high in self._ends.values())) or 1.0

    def bar(self, label: str) -> str:
        """The interval, its value, and where nothing would be."""
        low, value, high = (self._place(one) for one in self._ends[label])
        return (
            f'<span class="scale" aria-hidden="true"><u style="left:{self._place(0.0):.2f}%"></u>'
            f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i>'
            f'<b style="left:{value:.2f}%"></b></span>'
        )

    def _place(self, value: float) -> float:
        return 100 * (value - self._low) / (self._high - self._low)


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
        f"{_answer(answer.strip(), sample.answers[first].strip(), is_first=name == first)}"
        "</dd></div>"
        for name, answer in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<h3 class="prompt text">{escaped(sample.prompt)}</h3>\n'
        f'<dl class="answers">\n{answers}\n</dl>\n</article>'
    )


def _answer(answer: str, first: str, *, is_first: bool) -> str:
    if not answer:
        return '<span class="none">No word.</span>'
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
            "<code>--judgements judgements.csv</code>.</p>"
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
        sentence = (*sentence, ". Its share, ties as halves: ", preferred, " ", *interval)
    return f"<li>{said((*sentence, '.'))}</li>"
