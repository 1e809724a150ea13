"""Bar chart of speed ratios, with a line at 1."""

import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

from jaxdistill.report.svg import COLOURS, GRID, render_svg


def render_speed_chart(speed_ratios: Mapping[str, float]) -> str:
    """Render one bar per workload as an `<svg>` element.

    Args:
        speed_ratios: Speed of jaxdistill divided by the peer's speed, per workload.
    """
    values = "; ".join(f"{workload}: {ratio:.2f} times" for workload, ratio in speed_ratios.items())
    return render_svg(
        lambda figure: _draw_bars(figure, speed_ratios),
        alt_text=f"Speed relative to the peer. {values}.",
        size_inches=(7.5, 0.8 + 0.65 * len(speed_ratios)),
    )


def _draw_bars(figure: Figure, speed_ratios: Mapping[str, float]) -> None:
    axes = figure.add_subplot()
    bar_positions = range(len(speed_ratios))
    bars = axes.barh(bar_positions, list(speed_ratios.values()), color=COLOURS[0], height=0.5)
    axes.bar_label(bars, [f" {ratio:.2f} ×" for ratio in speed_ratios.values()])
    axes.axvline(1, color=COLOURS[1], linewidth=1.5)
    axes.set_yticks(bar_positions, [textwrap.fill(workload, 50) for workload in speed_ratios])
    axes.invert_yaxis()
    axes.margins(x=0.16, y=0.01)
    axes.set_xlabel("speed ratio (1: same speed as the peer)")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
