"""`report/index.html`: one file that needs no network and no script, on a screen or on paper."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxdistill.files import atomic_file
from jaxdistill.report.html import escape_html, render_definitions, render_document, wrap_scrollable
from jaxdistill.report.quantities import Comparison, Sample, table_rows
from jaxdistill.report.training_curves import MetricRecords, draw_chart, list_charts


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that the page says.

    Attributes:
        title: What the page is called.
        lead: A sentence or two below the title.
        comparison: The models beside each other.
        main: The model of the comparison that it is all about: its column stands out.
        records: The run's numbers by step, for the curves (`read_metrics`).
        samples: What the models write.
        facts: Counts of data, time, versions: what is worth knowing of the run, by name.
        config: The resolved config as YAML.
    """

    title: str
    lead: str = ""
    comparison: Comparison
    main_model: str = ""
    records: MetricRecords = ()
    samples: Sequence[Sample] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    config: str = ""


def read_metrics(path: str | Path) -> MetricRecords:
    """The lines of a `metrics.jsonl`; nothing where there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_report(report: RunReport, directory: str | Path) -> Path:
    """Write `index.html` into a directory, whole or not at all.

    Returns:
        The file.

    Raises:
        UserError: when the disk does not take it.
    """
    path = Path(directory) / "index.html"
    with atomic_file(path) as file:
        file.write_text(render_report(report), encoding="utf-8")
    return path


def render_report(report: RunReport) -> str:
    """The page as HTML. Every text that comes from outside is escaped."""
    sections = {
        "Before and after": _render_table(report),
        "Curves": _render_charts(report.records),
        "Samples": "\n".join(_render_sample(sample) for sample in report.samples),
        "The run": render_definitions(
            {name: escape_html(str(fact)) for name, fact in report.facts.items()}
        ),
        "Config": f'<pre tabindex="0">{escape_html(report.config)}</pre>' if report.config else "",
    }
    return render_document(report.title, escape_html(report.lead), sections)


def _render_table(report: RunReport) -> str:
    lines = table_rows(report.comparison)
    if not lines:
        return ""
    is_main = [model == report.main_model for model in report.comparison]
    marks = [' class="main"' if main else "" for main in is_main]
    heads = "".join(
        f'<th scope="col"{mark}>{escape_html(model)}</th>'
        for model, mark in zip(report.comparison, marks, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{escape_html(quantity.label)}'
        + (f"<small>{quantity.direction}</small>" if quantity.better else "")
        + "</th>"
        + "".join(
            f"<td{mark}>{escape_html(cell)}</td>" for cell, mark in zip(cells, marks, strict=True)
        )
        + "</tr>"
        for quantity, cells in lines
    )
    return wrap_scrollable(
        "Before and after",
        "<table>\n"
        "<caption>On held-out rows that neither model was trained on here.</caption>\n"
        f'<thead><tr><th scope="col">Quantity</th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>",
    )


def _render_charts(records: MetricRecords) -> str:
    figures = "\n".join(
        f"<figure>\n<figcaption>{escape_html(chart.title)}</figcaption>\n"
        f"{draw_chart(chart, records)}</figure>"
        for chart in list_charts(records)
    )
    return f'<div class="charts">\n{figures}\n</div>' if figures else ""


def _render_sample(sample: Sample) -> str:
    answers = "\n".join(
        f'<div><dt>{escape_html(model)}</dt><dd class="text">{escape_html(answer.strip())}</dd></div>'
        for model, answer in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<p class="prompt text">{escape_html(sample.prompt)}</p>\n'
        f'<dl class="answers">\n{answers}\n</dl>\n</article>'
    )
