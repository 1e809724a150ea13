"""Where a candidate falls behind, kind of word by kind of word: a part of the page."""

from collections.abc import Sequence

from jaxdistill.compare.metric_html import render_cell, render_sentence
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics, Sentence, pluralize
from jaxdistill.compare.quality import WordBreakdown
from jaxdistill.report import escape_html, wrap_scrollable

_BREAKDOWN_TITLES = {
    "frequency": "By how often a word occurs in these rows",
    "position": "By where a word stands in its answer",
    "length": "By how long the answer is",
}


def render_breakdown(
    metrics: ComparisonMetrics, word_breakdown: WordBreakdown, candidate: str, *, baseline: str
) -> str:
    """A candidate's words, kind by kind: a sentence on the worst of them, and a table."""
    worst = word_breakdown.worst_bin[candidate]
    scale = _IntervalBars(
        metrics, candidate, [one for labels in word_breakdown.bins.values() for one in labels]
    )
    groups = "\n".join(
        f'<tbody>\n<tr class="group"><th scope="rowgroup" colspan="3">'
        f"{_BREAKDOWN_TITLES[breakdown]}</th></tr>\n"
        + "\n".join(
            _render_bin_row(metrics, candidate, label, scale, label == worst) for label in labels
        )
        + "\n</tbody>"
        for breakdown, labels in word_breakdown.bins.items()
    )
    lead = f'<p class="lead">{render_sentence(_worst_bin_sentence(metrics, candidate, worst, baseline))}</p>\n'
    return lead + wrap_scrollable(
        f"Where {candidate} falls behind",
        '<table class="bins">\n'
        '<thead><tr><th scope="col">Words</th><th scope="col">Extra bits per byte</th>'
        f'<td class="bar"></td></tr></thead>\n{groups}\n</table>',
    )


def _worst_bin_sentence(
    metrics: ComparisonMetrics, candidate: str, worst_bin: str | None, baseline: str
) -> Sentence:
    if worst_bin is None:
        return (f"Nowhere does it clearly fall behind {baseline}.",)
    return (
        f"It falls behind most on {worst_bin}: ",
        metrics.show(candidate, "extra_bits_per_byte", bin=worst_bin),
        f" bits per byte beside {baseline}",
        *metrics.show_interval(candidate, "extra_bits_per_byte", bin=worst_bin),
        ".",
    )


def _render_bin_row(
    metrics: ComparisonMetrics,
    candidate: str,
    bin_label: str,
    scale: "_IntervalBars",
    is_worst: bool,
) -> str:
    count = render_sentence(pluralize(metrics.show(ALL_MODELS, "words", bin=bin_label), "word"))
    return (
        f"<tr{' class=worst' if is_worst else ''}>"
        f'<th scope="row">{escape_html(bin_label)}<small>{count}</small></th>'
        f"<td>{render_cell(metrics, candidate, 'extra_bits_per_byte', bin=bin_label)}</td>"
        f'<td class="bar">{scale.render_bar(bin_label)}</td></tr>'
    )


class _IntervalBars:
    """Intervals as bars on one line, beside numbers that say the same."""

    def __init__(self, metrics: ComparisonMetrics, candidate: str, bin_labels: Sequence[str]):
        lines = {one: metrics.get(candidate, "extra_bits_per_byte", bin=one) for one in bin_labels}
        self._ends = {
            label: (
                line.value if line.low is None else line.low,
                line.value,
                line.value if line.high is None else line.high,
            )
            for label, line in lines.items()
            if line is not None
        }
        self._low = min(0.0, *(low for low, _, _ in self._ends.values()))
        self._high = max(0.0, *(high for _, _, high in self._ends.values()))
        if self._low == self._high:
            self._high = 1.0  # there is nothing to see, but it has a place

    def render_bar(self, bin_label: str) -> str:
        """The interval, its value, and where nothing would be."""
        low, value, high = (self._percent_from_left(one) for one in self._ends[bin_label])
        return (
            f'<span class="scale" aria-hidden="true"><u style="left:{self._percent_from_left(0.0):.2f}%"></u>'
            f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i>'
            f'<b style="left:{value:.2f}%"></b></span>'
        )

    def _percent_from_left(self, value: float) -> float:
        return 100 * (value - self._low) / (self._high - self._low)
