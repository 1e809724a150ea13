"""How many times as fast: bars beside a line at one."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from jaxdistill.report.svg import COLOURS, GRID, render_svg


def draw_ratios(ratios: Mapping[str, float]) -> str:
    """A bar for each, by its name, as an `<svg>` element."""
    said = "; ".join(f"{name}: {ratio:.2f} times" for name, ratio in ratios.items())
    return render_svg(
        lambda figure: _draw(figure, ratios),
        alt_text=f"Speed beside the peer. {said}.",
        size_inches=(7.5, 0.8 + 0.5 * len(ratios)),
    )


def _draw(figure: Figure, ratios: Mapping[str, float]) -> None:
    axes = figure.add_subplot()
    places = range(len(ratios))
    bars = axes.barh(places, list(ratios.values()), color=COLOURS[0], height=0.5)
    axes.bar_label(bars, [f" {ratio:.2f} ×" for ratio in ratios.values()])
    axes.axvline(1, color=COLOURS[1], linewidth=1.5)
    axes.set_yticks(places, [name.replace(", ", ",\n", 1) for name in ratios])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times the peer's speed (1: as fast)")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
