"""The page that a decision is taken on: the recommendation first, then all that it rests on."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

from jaxdistill.compare.metric_html import render_cell, render_sentence
from jaxdistill.compare.metrics import (
    ALL_MODELS,
    ComparisonMetrics,
    Sentence,
    list_table_sections,
    pluralize,
)
from jaxdistill.compare.quality import WordBreakdown
from jaxdistill.compare.recommendation import CandidateAdvice, Recommendation, format_headline
from jaxdistill.compare.text_diff import diff_words
from jaxdistill.compare.word_breakdown import render_breakdown
from jaxdistill.report import (
    Sample,
    draw_intervals,
    escape_html,
    render_definitions,
    render_document,
    wrap_scrollable,
)


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
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
    metrics: ComparisonMetrics
    recommendation: Recommendation
    breakdown: WordBreakdown
    samples: Sequence[Sample]
    judgements_path: Path
    has_judgements: bool
    excluded_rows: Sentence
    facts: Mapping[str, Sentence]


def render_page(page: ComparisonPage) -> str:
    """The page as HTML. Every number in it says which one of the record it is."""
    first, *candidates = page.models
    lead: Sentence = (
        f"Can {' or '.join(candidates)} take the place of {first}? All read the same ",
        *pluralize(page.metrics.show(ALL_MODELS, "rows"), "row"),
        ". ",
        *page.excluded_rows,
    )
    sections = {
        "Recommendation": _render_recommendation(page),
        "At a glance": _render_table(page) + _render_interval_plot(page),
        **{
            f"Where {name} falls behind": render_breakdown(
                page.metrics, page.breakdown, name, baseline=first
            )
            for name in candidates
        },
        "Side by side": _render_samples(page),
        "What people say": _render_human_eval(page),
        "How this was measured": render_definitions(
            {k: render_sentence(v) for k, v in page.facts.items()}
        ),
    }
    title = f"{' and '.join(candidates)} beside {first}"
    css = resources.files("jaxdistill.compare").joinpath("compare.css").read_text(encoding="utf-8")
    return render_document(title, render_sentence(lead), sections, css=css)


def describe_excluded_rows(
    metrics: ComparisonMetrics, models: Sequence[str], length: int
) -> Sentence:
    """How many rows were not compared, and why."""
    reasons: list[Sentence] = [
        (metrics.show(name, quantity), about)
        for name, quantity, about in (
            *((one, "rows_too_long", f" too long for {one} at {length} tokens") for one in models),
            (ALL_MODELS, "rows_in_other_words", " in other words"),
            (ALL_MODELS, "blank_rows", " of blanks only"),
        )
        if metrics.get(name, quantity) is not None
    ]
    num_read = pluralize(metrics.show(ALL_MODELS, "rows_read"), "row")
    found: Sentence = (metrics.show(ALL_MODELS, "rows_left_out"), " of ", *num_read, " left out")
    for reason, start in zip(reasons, (": ", *[", "] * len(reasons)), strict=False):
        found = (*found, start, *reason)
    return (*found, ".")


def _render_recommendation(page: ComparisonPage) -> str:
    found = page.recommendation
    advice = "\n".join(_render_advice(one, len(found.advice) > 1) for one in found.advice)
    return (
        f'<div class="verdict {found.verdict}">\n'
        f'<p class="headline">{render_sentence(format_headline(found, page.metrics))}</p>\n{advice}\n</div>'
    )


def _render_advice(advice: CandidateAdvice, has_title: bool) -> str:
    said_of = {
        "take": "could be taken",
        "keep": "is not taken",
        "unclear": "cannot be told",
        "disputed": "is disputed",
    }
    name = f"<h3>{escape_html(advice.candidate)} {said_of[advice.verdict]}</h3>\n"
    reasons = "\n".join(f"<li>{_render_reason(reason)}</li>" for reason in advice.reasons)
    return f"{name if has_title else ''}<ul>\n{reasons}\n</ul>"


def _render_reason(reason: Sentence) -> str:
    """A reason, what it is about in bold."""
    start, *rest = reason
    assert isinstance(start, str)
    about, colon, more = start.partition(": ")
    return f"<strong>{escape_html(about)}</strong>{colon}{render_sentence((more, *rest))}"


def _render_table(page: ComparisonPage) -> str:
    main = [name == page.recommendation.model for name in page.models]
    marks = [' class="main"' if is_main else "" for is_main in main]
    heads = "".join(
        f'<th scope="col"{mark}>{escape_html(name)}'
        f"<small>{'in use' if name == page.models[0] else 'candidate'}</small></th>"
        for name, mark in zip(page.models, marks, strict=True)
    )
    bodies = "\n".join(
        f'<tbody>\n<tr class="group"><th scope="rowgroup" colspan="{1 + len(page.models)}">'
        f"{escape_html(group)}</th></tr>\n"
        + "\n".join(_render_table_row(page, name, marks) for name in names)
        + "\n</tbody>"
        for group, names in list_table_sections(page.metrics).items()
    )
    return wrap_scrollable(
        "At a glance",
        "<table>\n"
        f"<caption>In brackets: where the number lies with 95 % confidence. “The first” is "
        f"{escape_html(page.models[0])}.</caption>\n"
        f'<thead><tr><th scope="col">Quantity</th>{heads}</tr></thead>\n{bodies}\n</table>',
    )


def _render_table_row(page: ComparisonPage, quantity: str, class_attributes: Sequence[str]) -> str:
    about = page.metrics.quantity(quantity)
    better = f"<small>{about.direction}</small>" if about.better else ""
    cells = "".join(
        f"<td{mark}>{render_cell(page.metrics, name, quantity)}</td>"
        for name, mark in zip(page.models, class_attributes, strict=True)
    )
    return f'<tr><th scope="row">{escape_html(about.label)}{better}</th>{cells}</tr>'


def _render_interval_plot(page: ComparisonPage) -> str:
    intervals = {}
    for name in page.models:
        line = page.metrics.get(name, "bits_per_byte")
        assert line is not None
        if line.low is None or line.high is None:
            return ""  # there is nothing but a dot to draw
        intervals[name] = (line.value, line.low, line.high)
    return (
        "\n<figure>\n<figcaption>How well each predicts the text</figcaption>\n"
        f"{draw_intervals(page.metrics.quantity('bits_per_byte'), intervals)}</figure>"
    )


def _render_samples(page: ComparisonPage) -> str:
    if not page.samples:
        return ""
    note = (
        f'<p class="lead">What a candidate says differently from {escape_html(page.models[0])} is '
        "<mark>underlined</mark>.</p>"
    )
    return "\n".join([note, *(_render_sample(page.models[0], sample) for sample in page.samples)])


def _render_sample(baseline: str, sample: Sample) -> str:
    answers = "\n".join(
        f'<div><dt>{escape_html(name)}</dt><dd class="text">'
        f"{_render_completion(_collapse_blank_lines(answer), _collapse_blank_lines(sample.answers[baseline]), is_baseline=name == baseline)}"
        "</dd></div>"
        for name, answer in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<h3 class="prompt text">{escape_html(sample.prompt)}</h3>\n'
        f'<dl class="answers">\n{answers}\n</dl>\n</article>'
    )


def _collapse_blank_lines(text: str) -> str:
    """An answer without holes: one blank line at most between two others."""
    return re.sub(r"\n\s*\n", "\n\n", text.strip())


def _render_completion(completion: str, baseline_completion: str, *, is_baseline: bool) -> str:
    if not completion:
        return '<span class="none">[no answer]</span>'
    if is_baseline:
        return escape_html(completion)
    return "".join(
        f"<mark>{escape_html(piece)}</mark>" if differs else escape_html(piece)
        for piece, differs in diff_words(completion, baseline_completion)
    )


def _render_human_eval(page: ComparisonPage) -> str:
    if not page.has_judgements:
        return (
            "<p>Nobody was asked yet. <code>judgements.csv</code>, beside this page, holds the "
            "answers above in an order that does not tell whose they are. Write 1, 2 or tie into "
            "its column <code>better</code>, and run the comparison again with "
            f"<code>--judgements {escape_html(shlex.quote(str(page.judgements_path)))}</code>.</p>"
        )
    lines = "\n".join(_render_preferences(page, name) for name in page.models[1:])
    return f"<ul>\n{lines}\n</ul>"


def _render_preferences(page: ComparisonPage, candidate: str) -> str:
    record = page.metrics
    counts: list[Sentence] = [
        (record.show(candidate, quantity), f" {what}")
        for quantity, what in (
            ("wins", f"better than {page.models[0]}'s"),
            ("ties", "as good"),
            ("losses", "worse"),
            ("not_judged", "not judged"),
        )
    ]
    sentence: Sentence = (f"{candidate}'s answers: ", *counts[0])
    for _, count in pairwise(counts):
        sentence = (*sentence, ", ", *count)
    if record.get(candidate, "preferred") is not None:
        preferred = record.show(candidate, "preferred")
        interval = record.show_interval(candidate, "preferred")
        sentence = (*sentence, ". Its share, ties as halves: ", preferred, *interval)
    return f"<li>{render_sentence((*sentence, '.'))}</li>"
