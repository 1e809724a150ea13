"""Pictures as `<svg>` elements that can stand in any page and be read aloud."""

import io
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from jaxdistill.report.quantities import Quantity

COLOURS = ("#1b5e9b", "#b3541e", "#2c7a51", "#7a4b94", "#8a6d00", "#a03050")
GRID = "#e4e4e4"
_TEXT = "#444444"


def render_svg(
    fill_figure: Callable[[Figure], None], *, alt_text: str, size_inches: tuple[float, float]
) -> str:
    """Render a figure that a function fills, as an `<svg>` element as wide as the page allows."""
    style: Any = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
        "svg.hashsalt": alt_text,  # ids must differ between the pictures of a page
        "text.color": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "axes.labelcolor": _TEXT,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size_inches, layout="constrained")
        fill_figure(figure)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)
    return _extract_svg_element(file.getvalue(), alt_text=alt_text)


def draw_intervals(quantity: Quantity, intervals: Mapping[str, tuple[float, float, float]]) -> str:
    """Draw value, low and high end for each model as a dot on a line, as an `<svg>` element."""
    descriptions = [
        f"{model} {quantity.format(value)}, from {quantity.format(low)} to {quantity.format(high)}"
        for model, (value, low, high) in intervals.items()
    ]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (value, low, high) in enumerate(intervals.values()):
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=2)
            axes.plot([value], [row], "o", color=COLOURS[0], markersize=5)
        axes.set_yticks(range(len(intervals)), list(intervals))
        axes.invert_yaxis()
        axes.margins(y=0.2)
        axes.set_xlabel(f"{quantity.label} ({quantity.direction})")
        style_axes(axes, grid_axis="x")

    alt_text = f"{quantity.label}: {'; '.join(descriptions)}."
    return render_svg(fill, alt_text=alt_text, size_inches=(5.2, 0.9 + 0.32 * len(intervals)))


def style_axes(axes: Axes, *, grid_axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw a grey grid behind the data, and neither ticks nor a frame."""
    axes.grid(axis=grid_axis, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def to_standalone_svg(element: str) -> str:
    """Return an `<svg>` element as the content of a file, with its XML namespaces."""
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return element.replace("<svg", f"<svg {namespaces}", 1) + "\n"


def _extract_svg_element(svg_file: str, *, alt_text: str) -> str:
    """Return the element of a file, without references to anything outside."""
    view_box = re.search(r'viewBox="[^"]*"', svg_file)
    assert view_box, "matplotlib writes a view box"
    body = svg_file[svg_file.index(">", svg_file.index("<svg")) + 1 :]
    # A style would hold for the whole page, and numbered ids stand in every picture.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sid="[\w.]+_\d+"', "", body)
    return f'<svg role="img" aria-label="{escape(alt_text)}" {view_box[0]}>{body}'
