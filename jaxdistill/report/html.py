"""Parts of HTML pages: a document without scripts or network, with all text escaped."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

from jaxdistill.report.quantities import Sample, TableRow, strip_control_characters


def render_document(title: str, lead: str, sections: Mapping[str, str], *, css: str = "") -> str:
    """Render a page of sections, HTML by heading; an empty section is left out.

    `lead` is a sentence or two below the title; `css` joins the rules that all pages have.
    """
    return Template(_read_asset("page.html")).substitute(
        title=escape_html(title),
        lead=escape_html(lead),
        css=f"{_read_asset('page.css')}{css}".strip(),
        sections="\n".join(
            f"<section>\n<h2>{escape_html(heading)}</h2>\n{content}\n</section>"
            for heading, content in sections.items()
            if content
        ),
    )


def render_definitions(definitions: Mapping[str, object]) -> str:
    """Render facts by name; empty without any."""
    lines = "\n".join(
        f"<dt>{escape_html(name)}</dt><dd>{escape_html(str(fact))}</dd>"
        for name, fact in definitions.items()
    )
    return f'<dl class="facts">\n{lines}\n</dl>' if lines else ""


def render_table(
    title: str,
    columns: Mapping[str, str],
    sections: Mapping[str, Sequence[TableRow]],
    *,
    caption: str = "",
    row_header: str = "Quantity",
    main_column: str = "",
) -> str:
    """Render a table that scrolls by itself, also by keys, where it is wider than the page.

    Args:
        title: Name of the table for screen readers.
        columns: Small text below the name of each column.
        sections: Rows by heading; rows under an empty heading have none.
        caption: Text above the table.
        row_header: Header of the first column.
        main_column: Column that stands out.
    """
    column_classes = [' class="main"' if column == main_column else "" for column in columns]
    head = f'<th scope="rowgroup" colspan="{1 + len(columns)}">{{}}</th>'
    heads = "".join(
        f'<th scope="col"{css_class}>{escape_html(column)}{_render_small(note)}</th>'
        for (column, note), css_class in zip(columns.items(), column_classes, strict=True)
    )
    bodies = ""
    for heading, rows in sections.items():
        lines = [f'<tr class="group">{head.format(escape_html(heading))}</tr>'] if heading else []
        lines += [_render_row(row, column_classes) for row in rows]
        bodies += "\n".join(["<tbody>", *lines, "</tbody>", ""])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape_html(title)}">\n'
        f"<table>\n{f'<caption>{escape_html(caption)}</caption>' if caption else ''}\n"
        f'<thead><tr><th scope="col">{escape_html(row_header)}</th>{heads}</tr></thead>\n{bodies}'
        "</table>\n</div>"
    )


def _render_row(row: TableRow, column_classes: Sequence[str]) -> str:
    row_class = f' class="{row.css_class}"' if row.css_class else ""
    cells = "".join(
        f"<td{css_class}>{_render_cell(cell)}</td>"
        for cell, css_class in zip(row.cells, column_classes, strict=True)
    )
    head = f'<th scope="row">{escape_html(row.label)}{_render_small(row.note)}</th>'
    return f"<tr{row_class}>{head}{cells}</tr>"


def _render_cell(cell: str) -> str:
    value, bracket, interval = cell.partition(" [")
    return escape_html(value) + _render_small(bracket + interval)


def _render_small(text: str) -> str:
    return f"<small>{escape_html(text)}</small>" if text else ""


def render_sample(sample: Sample, render_completion: Callable[[str, str], str]) -> str:
    """Render a prompt and its completions, each as HTML from its model and text."""
    completions = "\n".join(
        f'<div><dt>{escape_html(model)}</dt><dd class="text">{render_completion(model, text)}</dd>'
        "</div>"
        for model, text in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<h3 class="prompt text">{escape_html(sample.prompt)}</h3>\n'
        f'<dl class="answers">\n{completions}\n</dl>\n</article>'
    )


def escape_html(text: str) -> str:
    """Escape text, and replace control characters in it."""
    return escape(strip_control_characters(text), quote=True)


def _read_asset(name: str) -> str:
    return resources.files("jaxdistill.report").joinpath(name).read_text(encoding="utf-8")
