"""Pictures as `<svg>` elements that can stand in any page and be read aloud."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#1b5e9b", "#b3541e", "#2c7a51", "#7a4b94", "#8a6d00", "#a03050")
GRID = "#e4e4e4"
_TEXT = "#444444"


def render_svg(
    fill_figure: Callable[[Figure], None], *, alt_text: str, size_inches: tuple[float, float]
) -> str:
    """What `draw` draws, as wide as the page allows.

    Args:
        draw: Fills a figure.
        label: The picture in words, for those who do not see it.
        size: Width and height in inches.
    """
    style: Any = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
        "svg.hashsalt": alt_text,  # ids must not be the same in two pictures of one page
        "text.color": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "axes.labelcolor": _TEXT,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size_inches, layout="constrained")
        fill_figure(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    return _extract_svg_element(file.getvalue(), alt_text=alt_text)


def to_standalone_svg(element: str) -> str:
    """An `<svg>` element as a file of its own, which must say what its words mean."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return element.replace("<svg", f"<svg {names}", 1) + "\n"


def _extract_svg_element(svg_file: str, *, alt_text: str) -> str:
    """Only the element, naming nothing outside of it."""
    view = re.search(r'viewBox="[^"]*"', svg_file)
    assert view, "matplotlib writes a view box"
    body = svg_file[svg_file.index(">", svg_file.index("<svg")) + 1 :]
    # A style would hold for the whole page, and numbered ids stand in every picture.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sid="[\w.]+_\d+"', "", body)
    return f'<svg role="img" aria-label="{escape(alt_text)}" {view[0]}>{body}'
