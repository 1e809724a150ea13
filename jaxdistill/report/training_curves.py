"""Curves of a run's numbers as SVG, to stand inside a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdistill.report.svg import COLOURS, GRID, render_svg

MetricRecords = Sequence[Mapping[str, Any]]
"""Lines of `metrics.jsonl`: each has a `step`, and numbers (None where one was not finite)."""

_NOT_OBJECTIVES = {
    "train/loss",
    "train/grad_norm",
    "train/param_norm",
    "train/learning_rate",
    "train/scored_tokens",
    "train/tokens",
}
_HELDOUT_TITLES = {
    "eval/forward_kl": "Held out: KL to the teacher, nats per token",
    "eval/nll": "Held out: cross-entropy, nats per token",
    "eval/bits_per_byte": "Held out: bits per byte",
    "eval/top1_agreement": "Held out: top-1 agreement with the teacher",
}


@dataclass(frozen=True)
class LineChart:
    """One picture: a title, and the names of the numbers that are drawn in it."""

    title: str
    names: Sequence[str]

    @property
    def labels(self) -> list[str]:
        """The names without their rooms."""
        return [name.rpartition("/")[2] for name in self.names]


def list_charts(records: MetricRecords) -> list[LineChart]:
    """What there is to draw: only numbers that were recorded at two steps or more."""
    counts: dict[str, int] = {}
    for record in records:
        for name, value in record.items():
            counts[name] = counts.get(name, 0) + (value is not None)
    objectives = [
        name
        for name in counts
        if name.startswith("train/")
        and name not in _NOT_OBJECTIVES
        and not name.endswith("_weight")
    ]
    found = [
        LineChart("Loss", ["train/loss"]),
        # One objective alone is the loss.
        LineChart("Objectives, nats per token", objectives if len(objectives) > 1 else []),
        *(LineChart(title, [name]) for name, title in _HELDOUT_TITLES.items()),
        LineChart("Learning rate", ["train/learning_rate"]),
        LineChart("Gradient norm, before clipping", ["train/grad_norm"]),
    ]
    drawn = [LineChart(c.title, [n for n in c.names if counts.get(n, 0) > 1]) for c in found]
    return [chart for chart in drawn if chart.names]


def read_series(records: MetricRecords, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one number; NaN, which leaves a gap, where it was not finite."""
    points = [(record["step"], record[name]) for record in records if name in record]
    values = [math.nan if value is None else float(value) for _, value in points]
    return [step for step, _ in points], values


def describe_chart(chart: LineChart, records: MetricRecords) -> str:
    """A chart in words, for those who do not see it."""
    said = []
    for name, quantity in zip(chart.names, chart.labels, strict=True):
        steps, values = read_series(records, name)
        finite = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
        (first, start), (last, end) = finite[0], finite[-1]
        said.append(f"{quantity} from {start:.4g} at step {first} to {end:.4g} at step {last}")
    return f"{chart.title}: {'; '.join(said)}."


def draw_chart(chart: LineChart, records: MetricRecords) -> str:
    """The chart as an `<svg>` element."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for colour, name, label in zip(
            COLOURS * len(chart.names), chart.names, chart.labels, strict=False
        ):
            steps, values = read_series(records, name)
            marker = "o" if len(steps) < 30 else None
            axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=3)
        _style_axes(axes, last_step=records[-1]["step"], num_lines=len(chart.names))

    return render_svg(fill, alt_text=describe_chart(chart, records), size_inches=(5.2, 2.7))


def training_effort(records: MetricRecords) -> tuple[int, float]:
    """The tokens that a run has read, and the seconds that it trained, over all its parts."""
    tokens = seconds = before = 0.0
    for record in records:
        if "time/seconds" in record:
            now = record["time/seconds"]
            passed = now - before if now >= before else now  # older runs counted anew
            seconds, before = seconds + passed, now
            tokens += passed * record["time/tokens_per_second"]
    return round(tokens), seconds


def _style_axes(axes: Axes, *, last_step: int, num_lines: int) -> None:
    axes.set_xlabel("step")
    # The same in all charts, so that they can be read across.
    axes.set_xlim(0, 1.02 * last_step)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if num_lines > 1:
        axes.legend(frameon=False, loc="upper right")
