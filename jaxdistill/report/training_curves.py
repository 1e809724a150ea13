"""Charts of a run's metrics over its steps or over positions, as SVG, and its training effort."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdistill.report.svg import COLOURS, render_svg, style_axes

MetricRecords = Sequence[Mapping[str, Any]]
"""Records of `metrics.jsonl`: a `step`, and metrics (None if a value was not finite)."""

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

_MAX_POINT_AREA = 50.0
"""Area of the largest point, in square points."""


class LineChart(NamedTuple):
    """A chart of metrics.

    Attributes:
        title: Title.
        names: Names of the metrics.
        x_name: Name of the horizontal axis in the records.
        count_name: Name of the number of tokens behind a value, which sizes its point; empty for
            points of one size.
    """

    title: str
    names: Sequence[str]
    x_name: str = "step"
    count_name: str = ""


def list_charts(records: MetricRecords) -> list[LineChart]:
    """List the charts of the metrics that were recorded at two steps or more."""
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
    charts = [
        LineChart("Loss, weighted", ["train/loss"]),
        # A single objective is the loss.
        LineChart(
            "Objectives, per token and unweighted", objectives if len(objectives) > 1 else []
        ),
        LineChart("Weights of objectives", [n for n in counts if n.endswith("_weight")]),
        *(LineChart(title, [name]) for name, title in _HELDOUT_TITLES.items()),
        LineChart("Learning rate", ["train/learning_rate"]),
        LineChart("Gradient norm, before clipping", ["train/grad_norm"]),
    ]
    charts = [LineChart(c.title, [n for n in c.names if counts.get(n, 0) > 1]) for c in charts]
    return [chart for chart in charts if chart.names]


def list_position_charts(records: MetricRecords) -> list[LineChart]:
    """List the charts of held-out metrics by position in the text, of two positions or more."""
    titles = {name.removeprefix("eval/"): title for name, title in _HELDOUT_TITLES.items()}
    return [
        LineChart(
            f"{title}, by position; larger points have more tokens", [name], "position", "tokens"
        )
        for name, title in titles.items()
        if sum(math.isfinite(record.get(name, math.nan)) for record in records) > 1
    ]


def read_series(
    records: MetricRecords, name: str, x_name: str = "step"
) -> tuple[list[int], list[float]]:
    """Return steps and values of a metric; NaN, a gap in its line, where it was not finite."""
    points = [(record[x_name], record[name]) for record in records if name in record]
    values = [math.nan if value is None else float(value) for _, value in points]
    return [step for step, _ in points], values


def describe_chart(chart: LineChart, records: MetricRecords) -> str:
    """Describe a chart for screen readers."""
    descriptions = []
    for name in chart.names:
        points = zip(*read_series(records, name, chart.x_name), strict=True)
        finite = [(step, value) for step, value in points if math.isfinite(value)]
        (first, start), (last, end) = finite[0], finite[-1]
        counts = ["", ""]
        if chart.count_name:
            with_value = [record for record in records if name in record]
            counts = [f" ({with_value[i][chart.count_name]:,} token(s))" for i in (0, -1)]
        descriptions.append(
            f"{_label(name)} from {start:.4g} at {chart.x_name} {first}{counts[0]} "
            f"to {end:.4g} at {chart.x_name} {last}{counts[1]}"
        )
    return f"{chart.title}: {'; '.join(descriptions)}."


def draw_chart(chart: LineChart, records: MetricRecords) -> str:
    """Draw a chart, and return an `<svg>` element."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for colour, name in zip(cycle(COLOURS), chart.names, strict=False):
            steps, values = read_series(records, name, chart.x_name)
            marker = "o" if len(steps) < 30 and not chart.count_name else None
            axes.plot(steps, values, color=colour, label=_label(name), marker=marker, markersize=3)
            if chart.count_name:
                counts = [record[chart.count_name] for record in records if name in record]
                areas = [_MAX_POINT_AREA * count / max(counts) for count in counts]
                axes.scatter(steps, values, areas, color=colour, clip_on=False)
        _label_axes(axes, chart, last=records[-1][chart.x_name])

    return render_svg(fill, alt_text=describe_chart(chart, records), size_inches=(5.2, 2.7))


def _label(name: str) -> str:
    """Return the name of a metric without its prefix, such as `train/`."""
    return name.rpartition("/")[2]


def training_effort(records: MetricRecords) -> tuple[int, float]:
    """Return the tokens and seconds of training, over all parts of a run that was resumed."""
    tokens = seconds = before = 0.0
    for record in records:
        if "time/seconds" in record:
            now = record["time/seconds"]
            # Runs of older versions counted from 0 again after they were resumed.
            passed = now - before if now >= before else now
            seconds, before = seconds + passed, now
            tokens += passed * record["time/tokens_per_second"]
    return round(tokens), seconds


def _label_axes(axes: Axes, chart: LineChart, last: int) -> None:
    axes.set_xlabel(chart.x_name)
    # The same range in all charts, so that they can be compared.
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
    style_axes(axes)
    if len(chart.names) > 1:
        axes.legend(frameon=False, loc="upper right")
