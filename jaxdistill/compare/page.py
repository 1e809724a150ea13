"""The page of a comparison: the recommendation first, then everything that it rests on."""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib import resources

from jaxdistill.compare.human_eval import SHEET_NAME
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics, pluralize
from jaxdistill.compare.options import CompareOptions
from jaxdistill.compare.quality import WordBreakdown
from jaxdistill.compare.recommendation import Recommendation, Verdict
from jaxdistill.report import (
    Sample,
    TableRow,
    draw_intervals,
    escape_html,
    render_definitions,
    render_document,
    render_sample,
    render_table,
)

_VERDICTS = {
    "take": "could be taken",
    "keep": "is not taken",
    "unclear": "is undecided",
    "disputed": "is disputed",
}


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Content of the page; `facts` are how the metrics were measured, by name."""

    options: CompareOptions
    metrics: ComparisonMetrics
    recommendation: Recommendation
    breakdown: WordBreakdown
    samples: Sequence[Sample]
    facts: Mapping[str, str]


def render_page(page: ComparisonPage) -> str:
    """Render the page as HTML."""
    first, candidates = page.metrics.baseline, page.metrics.candidates
    num_rows = pluralize(page.metrics.show(ALL_MODELS, "rows"), "row")
    lead = (
        f"Can {' or '.join(candidates)} take the place of {first}? All read the same {num_rows}. "
        f"{describe_excluded_rows(page.metrics, page.options.data.length)}"
    )
    sections = {
        "Recommendation": _render_recommendation(page.recommendation),
        "At a glance": _render_metrics(page) + _render_interval_plot(page),
        **{f"Where {name} falls behind": _render_breakdown(page, name) for name in candidates},
        "Side by side": _render_samples(page),
        "What people say": _render_human_eval(page),
        "How this was measured": render_definitions(page.facts),
    }
    title = f"{' and '.join(candidates)} beside {first}"
    css = resources.files("jaxdistill.compare").joinpath("compare.css").read_text(encoding="utf-8")
    return render_document(title, lead, sections, css=css)


def describe_excluded_rows(metrics: ComparisonMetrics, length: int) -> str:
    """Return a sentence on how many rows were left out, and why."""
    reasons = {
        "rows_too_long": f"too long for {{}} at {length} tokens",
        "rows_in_other_words": "in other words",
        "blank_rows": "of blanks only",
    }
    counts = [
        f"{metrics.show(model, quantity)} {reasons[quantity].format(model)}"
        for model, quantity in ((metric.model, metric.quantity) for metric in metrics)
        if quantity in reasons
    ]
    num_read = pluralize(metrics.show(ALL_MODELS, "rows_read"), "row")
    sentence = f"{metrics.show(ALL_MODELS, 'rows_left_out')} of {num_read} left out"
    return f"{sentence}{': ' if counts else ''}{', '.join(counts)}."


def _render_recommendation(recommendation: Recommendation) -> str:
    advice = recommendation.advice
    reasons = "\n".join(_render_advice(*fields, has_title=len(advice) > 1) for fields in advice)
    return (
        f'<div class="verdict {recommendation.verdict}">\n'
        f'<p class="headline">{escape_html(recommendation.headline)}</p>\n{reasons}\n</div>'
    )


def _render_advice(
    candidate: str, verdict: Verdict, reasons: Sequence[str], *, has_title: bool
) -> str:
    title = f"<h3>{escape_html(candidate)} {_VERDICTS[verdict]}</h3>\n"
    items = "\n".join(
        f"<li><strong>{escape_html(topic)}</strong>: {escape_html(text)}</li>"
        for topic, _, text in (reason.partition(": ") for reason in reasons)
    )
    return f"{title if has_title else ''}<ul>\n{items}\n</ul>"


def _render_metrics(page: ComparisonPage) -> str:
    first, candidates = page.metrics.baseline, page.metrics.candidates
    return render_table(
        "At a glance",
        {first: "in use", **dict.fromkeys(candidates, "candidate")},
        page.metrics.table_sections(),
        caption=f"In brackets: 95 % confidence intervals. “The first” is {first}.",
        main_column=page.recommendation.model,
    )


def _render_interval_plot(page: ComparisonPage) -> str:
    metrics = (page.metrics.get(name, "bits_per_byte") for name in page.metrics.models)
    estimates = {metric.model: metric.estimate for metric in metrics if metric is not None}
    intervals = {name: astuple(estimate) for name, estimate in estimates.items() if estimate}
    if not intervals:
        return ""
    return (
        "\n<figure>\n<figcaption>How well each predicts the text</figcaption>\n"
        f"{draw_intervals(page.metrics.quantity('bits_per_byte'), intervals)}</figure>"
    )


def _render_breakdown(page: ComparisonPage, candidate: str) -> str:
    metrics, worst_bin = page.metrics, page.breakdown.worst_bin[candidate]
    baseline, lead = page.metrics.baseline, "No kind of words stands out."
    if worst_bin is not None:
        extra = metrics.show_cell(candidate, "extra_bits_per_byte", bin=worst_bin)
        lead = f"It falls behind most on {worst_bin}: {extra} bits per byte beside {baseline}."
    sections = {
        breakdown: [
            TableRow(
                label,
                pluralize(metrics.show(ALL_MODELS, "words", bin=label), "word"),
                [metrics.show_cell(candidate, "extra_bits_per_byte", bin=label)],
                css_class="worst" if label == worst_bin else "",
            )
            for label in labels
        ]
        for breakdown, labels in page.breakdown.bins.items()
    }
    table = render_table(
        f"Where {candidate} falls behind",
        {"Extra bits per byte": ""},
        sections,
        row_header="Words",
    )
    return f'<p class="lead">{escape_html(lead)}</p>\n{table}'


def _render_samples(page: ComparisonPage) -> str:
    if not page.samples:
        return ""
    first = page.metrics.baseline
    samples = "\n".join(_render_sample(first, sample) for sample in page.samples)
    return (
        f'<p class="lead">Words of a candidate that differ from those of {escape_html(first)} are '
        f"<mark>underlined</mark>.</p>\n{samples}"
    )


def _render_sample(baseline: str, sample: Sample) -> str:
    reference = _collapse_blank_lines(sample.answers[baseline])

    def render_completion(model: str, text: str) -> str:
        text = _collapse_blank_lines(text)
        if not text:
            return '<span class="none">[no answer]</span>'
        if model == baseline:
            return escape_html(text)
        return "".join(
            f"<mark>{escape_html(piece)}</mark>" if differs else escape_html(piece)
            for piece, differs in diff_words(text, reference)
        )

    return render_sample(sample, render_completion)


def diff_words(text: str, reference: str) -> Iterator[tuple[str, bool]]:
    """Yield `text` in pieces, each with True if it differs from `reference`; some may be empty.

    Neighbouring words that differ are a single piece, with the spaces between them but not around
    them; a difference in spacing alone does not count.
    """
    words, done = list(re.finditer(r"\S+", text)), 0
    matcher = difflib.SequenceMatcher(
        a=[word[0] for word in words], b=reference.split(), autojunk=False
    )
    for kind, start, end, _, _ in matcher.get_opcodes():
        if kind in ("replace", "delete"):
            yield text[done : words[start].start()], False
            done = words[end - 1].end()
            yield text[words[start].start() : done], True
    yield text[done:], False


def _collapse_blank_lines(text: str) -> str:
    return re.sub(r"\n\s*\n", "\n\n", text.strip())


def _render_human_eval(page: ComparisonPage) -> str:
    if page.options.judgements is not None:
        return ""
    path = escape_html(shlex.quote(str(page.options.out / SHEET_NAME)))
    return (
        "<p>Nobody was asked yet. <code>judgements.csv</code>, beside this page, holds the answers "
        "above without the names of the models. Write 1, 2 or tie into its column "
        "<code>better</code>, and run the comparison again with "
        f"<code>--judgements {path}</code>.</p>"
    )
