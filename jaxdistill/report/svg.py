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
    """Render a figure as an `<svg>` element as wide as the page allows.

    Args:
        fill_figure: Function that draws into an empty figure.
        alt_text: Description of the picture for screen readers.
        size_inches: Width and height.
    """
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
