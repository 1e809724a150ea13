"""What all pages are made of: one document without script or network, and escaped text in it."""

from collections.abc import Mapping
from html import escape
from importlib import resources
from string import Template

from jaxdistill.report.quantities import strip_control_characters


def render_document(title: str, lead: str, sections: Mapping[str, str], *, css: str = "") -> str:
    """A page as HTML.

    Args:
        title: What it is called, as text.
        lead: A sentence or two below the title, as HTML.
        sections: HTML by its heading, which is text; an empty section is left out.
        css: Rules beyond those that all pages have.
    """
    return Template(_read_asset("page.html")).substitute(
        title=escape_html(title),
        lead=lead,
        css=f"{_read_asset('page.css')}{css}".strip(),
        sections="\n".join(
            f"<section>\n<h2>{escape_html(heading)}</h2>\n{content}\n</section>"
            for heading, content in sections.items()
            if content
        ),
    )


def render_definitions(definitions: Mapping[str, str]) -> str:
    """What is worth knowing, as HTML by its name; nothing where there is nothing."""
    lines = "\n".join(
        f"<dt>{escape_html(name)}</dt><dd>{text}</dd>" for name, text in definitions.items()
    )
    return f'<dl class="facts">\n{lines}\n</dl>' if lines else ""


def wrap_scrollable(label: str, table_html: str) -> str:
    """A table that scrolls by itself where it is wider than the page, also by keys."""
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape_html(label)}">'
    return f"{box}\n{table_html}\n</div>"


def escape_html(text: str) -> str:
    """`text` as HTML, without what steers a terminal or turns the direction of writing."""
    return escape(strip_control_characters(text), quote=True)


def _read_asset(name: str) -> str:
    return resources.files("jaxdistill.report").joinpath(name).read_text(encoding="utf-8")
