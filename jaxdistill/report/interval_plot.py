"""Picture of one quantity of several models, with intervals."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from jaxdistill.report.quantities import Quantity
from jaxdistill.report.svg import COLOURS, GRID, render_svg

Interval = tuple[float, float, float]
"""A value, and the lower and upper end of its interval."""


def draw_intervals(quantity: Quantity, intervals: Mapping[str, Interval]) -> str:
    """Draw a dot and a line for each model, in order, and return an `<svg>` element.

    Args:
        quantity: The quantity.
        intervals: Interval of each model.
    """
    descriptions = [
        f"{model} {quantity.format(value)}, from {quantity.format(low)} to {quantity.format(high)}"
        for model, (value, low, high) in intervals.items()
    ]
    return render_svg(
        lambda figure: _plot_intervals(figure, quantity, intervals),
        alt_text=f"{quantity.label}: {'; '.join(descriptions)}.",
        size_inches=(5.2, 0.9 + 0.32 * len(intervals)),
    )


def _plot_intervals(figure: Figure, quantity: Quantity, intervals: Mapping[str, Interval]) -> None:
    axes = figure.add_subplot()
    for row, (value, low, high) in enumerate(intervals.values()):
        axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=2)
        axes.plot([value], [row], "o", color=COLOURS[0], markersize=5)
    axes.set_yticks(range(len(intervals)), list(intervals))
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_xlabel(f"{quantity.label} ({quantity.direction})")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
