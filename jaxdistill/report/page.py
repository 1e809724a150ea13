"""`report/index.html`: one file that needs no network and no script, on a screen or on paper."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxdistill.files import whole_file
from jaxdistill.report.comparison import Comparison, Sample, rows
from jaxdistill.report.curves import Records, charts, draw
from jaxdistill.report.html import document, escaped, facts, scrolled


@dataclass(frozen=True, kw_only=True)
class Report:
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
    main: str = ""
    records: Records = ()
    samples: Sequence[Sample] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    config: str = ""


def read_metrics(path: str | Path) -> Records:
    """The lines of a `metrics.jsonl`; nothing where there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(report: Report, directory: str | Path) -> Path:
    """Write `index.html` into a directory, whole or not at all.

    Returns:
        The file.

    Raises:
        UserError: when the disk does not take it.
    """
    path = Path(directory) / "index.html"
    with whole_file(path) as file:
        file.write_text(page(report), encoding="utf-8")
    return path


def page(report: Report) -> str:
    """The page as HTML. Every text that comes from outside is escaped."""
    sections = {
        "Before and after": _table(report),
        "Curves": _figures(report.records),
        "Samples": "\n".join(_sample(sample) for sample in report.samples),
        "The run": facts({name: escaped(str(fact)) for name, fact in report.facts.items()}),
        "Config": f'<pre tabindex="0">{escaped(report.config)}</pre>' if report.config else "",
    }
    return document(report.title, escaped(report.lead), sections)


def _table(report: Report) -> str:
    lines = rows(report.comparison)
    if not lines:
        return ""
    is_main = [model == report.main for model in report.comparison]
    marks = [' class="main"' if main else "" for main in is_main]
    heads = "".join(
        f'<th scope="col"{mark}>{escaped(model)}</th>'
        for model, mark in zip(report.comparison, marks, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{escaped(quantity.label)}'
        + (f"<small>{quantity.direction}</small>" if quantity.better else "")
        + "</th>"
        + "".join(
            f"<td{mark}>{escaped(cell)}</td>" for cell, mark in zip(cells, marks, strict=True)
        )
        + "</tr>"
        for quantity, cells in lines
    )
    return scrolled(
        "Before and after",
        "<table>\n"
        "<caption>On held-out rows that neither model was trained on here.</caption>\n"
        f'<thead><tr><th scope="col">Quantity</th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>",
    )


def _figures(records: Records) -> str:
    figures = "\n".join(
        f"<figure>\n<figcaption>{escaped(chart.title)}</figcaption>\n"
        f"{draw(chart, records)}</figure>"
        for chart in charts(records)
    )
    return f'<div class="charts">\n{figures}\n</div>' if figures else ""


def _sample(sample: Sample) -> str:
    answers = "\n".join(
        f'<div><dt>{escaped(model)}</dt><dd class="text">{escaped(answer.strip())}</dd></div>'
        for model, answer in sample.answers.items()
    )
    return (
        f'<article class="sample">\n<p class="prompt text">{escaped(sample.prompt)}</p>\n'
        f'<dl class="answers">\n{answers}\n</dl>\n</article>'
    )
