"""Where a candidate falls behind, kind of word by kind of word: a part of the page."""

from collections.abc import Sequence

from jaxdistill.compare.html import cell, said
from jaxdistill.compare.measure import Breakdown
from jaxdistill.compare.record import ALL, Record, Sentence, counted
from jaxdistill.report import escaped, scrolled

_BREAKDOWNS = {
    "frequency": "By how often a word occurs in these rows",
    "position": "By where a word stands in its answer",
    "length": "By how long the answer is",
}


def breakdown_html(record: Record, found: Breakdown, name: str, *, first: str) -> str:
    """A candidate's words, kind by kind: a sentence on the worst of them, and a table."""
    worst = found.worst[name]
    scale = _Scale(record, name, [one for labels in found.bins.values() for one in labels])
    groups = "\n".join(
        f'<tbody>\n<tr class="group"><th scope="rowgroup" colspan="3">'
        f"{_BREAKDOWNS[breakdown]}</th></tr>\n"
        + "\n".join(_bin_row(record, name, label, scale, label == worst) for label in labels)
        + "\n</tbody>"
        for breakdown, labels in found.bins.items()
    )
    lead = f'<p class="lead">{said(_lead(record, name, worst, first))}</p>\n'
    return lead + scrolled(
        f"Where {name} falls behind",
        '<table class="bins">\n'
        '<thead><tr><th scope="col">Words</th><th scope="col">Extra bits per byte</th>'
        f'<td class="bar"></td></tr></thead>\n{groups}\n</table>',
    )


def _lead(record: Record, name: str, worst: str | None, first: str) -> Sentence:
    if worst is None:
        return (f"Nowhere does it clearly fall behind {first}.",)
    return (
        f"It falls behind most on {worst}: ",
        record.said(name, "extra_bits_per_byte", bin=worst),
        f" bits per byte beside {first}",
        *record.interval(name, "extra_bits_per_byte", bin=worst),
        ".",
    )


def _bin_row(record: Record, name: str, label: str, scale: "_Scale", is_worst: bool) -> str:
    count = said(counted(record.said(ALL, "words", bin=label), "word"))
    return (
        f"<tr{' class=worst' if is_worst else ''}>"
        f'<th scope="row">{escaped(label)}<small>{count}</small></th>'
        f"<td>{cell(record, name, 'extra_bits_per_byte', bin=label)}</td>"
        f'<td class="bar">{scale.bar(label)}</td></tr>'
    )


class _Scale:
    """Intervals as bars on one line, beside numbers that say the same."""

    def __init__(self, record: Record, name: str, labels: Sequence[str]):
        lines = {one: record.get(name, "extra_bits_per_byte", bin=one) for one in labels}
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
