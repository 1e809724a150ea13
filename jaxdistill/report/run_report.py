"""The report on a run: `report/index.html`, one file without network or scripts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxdistill.files import atomic_file
from jaxdistill.report.heat_map import HeatMap, draw_heat_map
from jaxdistill.report.html import (
    escape_html,
    render_definitions,
    render_document,
    render_sample,
    render_table,
)
from jaxdistill.report.quantities import Comparison, Sample, table_rows
from jaxdistill.report.training_curves import (
    LineChart,
    MetricRecords,
    draw_chart,
    list_charts,
    list_position_charts,
)
from jaxdistill.track import read_records

_HELDOUT = "On held-out rows that neither model was trained on here."
_NO_HELDOUT = "No rows were held out: samples and repetition are of training prompts."


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Content of the report on a run.

    Attributes:
        comparison: Quantities of each model.
        main_model: Model of the comparison whose column stands out.
        records: Metrics of the run by step, for the curves (`read_metrics`).
        by_position: Held-out metrics of the main model by `position` in the text.
        heat_maps: Values of pairs of layers.
        facts: Counts of data, time and versions, by name.
        config: The resolved config as YAML.
    """

    title: str
    lead: str = ""
    comparison: Comparison
    main_model: str = ""
    records: MetricRecords = ()
    by_position: MetricRecords = ()
    samples: Sequence[Sample] = ()
    heat_maps: Sequence[HeatMap] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    config: str = ""


def read_metrics(path: str | Path) -> MetricRecords:
    """Read the records of a `metrics.jsonl`; empty if there is no such file."""
    return [record.values for record in read_records(Path(path))]


def write_report(report: RunReport, directory: str | Path) -> Path:
    """Write `index.html` into a directory, whole or not at all, and return its path.

    Raises:
        UserError: if the disk is full or cannot be written to.
    """
    path = Path(directory) / "index.html"
    with atomic_file(path) as file:
        file.write_text(render_report(report), encoding="utf-8")
    return path


def render_report(report: RunReport) -> str:
    """Render the report as HTML."""
    sections = {
        "Before and after": _render_comparison(report),
        "Curves": _draw_charts(list_charts(report.records), report.records),
        "By position": _draw_charts(list_position_charts(report.by_position), report.by_position),
        "Layers": _render_figures((one.caption, draw_heat_map(one)) for one in report.heat_maps),
        "Samples": "\n".join(render_sample(sample, _render_text) for sample in report.samples),
        "The run": render_definitions(report.facts),
        "Config": f'<pre tabindex="0">{escape_html(report.config)}</pre>' if report.config else "",
    }
    return render_document(report.title, report.lead, sections)


def _render_comparison(report: RunReport) -> str:
    rows = table_rows(report.comparison)
    if not rows:
        return ""
    has_heldout = any("nll" in metrics for metrics in report.comparison.values())
    return render_table(
        "Before and after",
        dict.fromkeys(report.comparison, ""),
        {"": rows},
        caption=_HELDOUT if has_heldout else _NO_HELDOUT,
        main_column=report.main_model,
    )


def _draw_charts(charts: Sequence[LineChart], records: MetricRecords) -> str:
    return _render_figures((chart.title, draw_chart(chart, records)) for chart in charts)


def _render_figures(figures: Iterable[tuple[str, str]]) -> str:
    """Render titles and their `<svg>` elements side by side; empty for none."""
    rendered = "\n".join(
        f"<figure>\n<figcaption>{escape_html(title)}</figcaption>\n{svg}</figure>"
        for title, svg in figures
    )
    return f'<div class="charts">\n{rendered}\n</div>' if rendered else ""


def _render_text(model: str, text: str) -> str:
    del model
    return escape_html(text.strip())
