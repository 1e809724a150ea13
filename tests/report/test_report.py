"""The report is well formed, has the numbers of its input, needs no network, and escapes text."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from jaxdistill.errors import UserError
from jaxdistill.report import (
    RunReport,
    Sample,
    print_samples,
    print_table,
    read_metrics,
    table_rows,
    write_report,
)

VOID = {"meta", "br", "img", "input", "link", "hr"}
NASTY = '<script>alert(1)</script> & "quotes" [red]markup[/red] \x1b[31mred\x07 \u202eback'
COMPARISON = {
    "student before": {
        "forward_kl": 3.98766,
        "bits_per_byte": 1.5,
        "top1_agreement": 0.123,
        "num_parameters": 63_700_000,
        "size_on_disk": 254_800_000,
        "tokens_per_second": 71.06,
    },
    "student after": {
        "forward_kl": 0.87654,
        "bits_per_byte": 0.91234,
        "top1_agreement": 0.654,
        "num_parameters": 63_700_000,
        "size_on_disk": 254_800_000,
        "tokens_per_second": 70.94,
    },
    "teacher": {"bits_per_byte": 0.75, "perplexity": float("inf"), "size_on_disk": 99},
}
RECORDS = [
    {"step": step, "train/loss": 4 / step, "train/forward_kl": 3 / step, "train/cross_entropy": 1.0}
    | {"train/learning_rate": 1e-4 * step, "train/grad_norm": None if step == 3 else 1.0}
    | ({"eval/forward_kl": 1 / step} if step % 5 == 0 else {})
    for step in range(1, 41)
]


class Page(HTMLParser):
    """Reads a page, checks that tags are closed in order, and keeps tags, cells and texts."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "small" not in self.open and self.open[-1:] in (["td"], ["th"]):
            self.cells[-1][-1] += data


@pytest.fixture
def html(tmp_path: Path) -> str:
    report = RunReport(
        title=f"A run {NASTY}",
        lead="Two models.",
        comparison=COMPARISON,
        main_model="student after",
        records=RECORDS,
        by_position=[
            {"position": 16 * n, "tokens": 128 >> n, "forward_kl": 2 - n / 8} for n in range(8)
        ],
        samples=[Sample(NASTY, {"student after": NASTY, "teacher": "Fine.\n\tIndeed."})],
        facts={"time": "3 min", "place": NASTY},
        config=f"output: {NASTY}\n",
    )
    path = write_report(report, tmp_path / "report")
    assert path == tmp_path / "report" / "index.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_accessible(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:url\(|href=")#([^)"]+)', html)
    assert targets
    assert set(targets) <= set(ids)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 6
    assert "from 2 at position 0 (128 token(s)) to 1.125 at position 112 (1 token(s))" in html
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert "loss from 4 at step 1 to 0.1 at step 40" in html
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {
        "col",
        "row",
    }
    assert ("html", {"lang": "en"}) in page.tags


def test_the_table_has_the_numbers_of_the_input(html: str) -> None:
    cells = {row[0]: row[1:] for row in Page(html).cells}
    assert cells == {
        "Quantity": ["student before", "student after", "teacher"],
        "KL to the teacher, nats": ["3.9877", "0.8765", "–"],
        "Bits per byte": ["1.5000", "0.9123", "0.7500"],
        "Perplexity": ["–", "–", "∞"],
        "Top-1 agreement": ["12.3 %", "65.4 %", "–"],
        "Parameters": ["63.7 M", "63.7 M", "–"],
        "Size on disk": ["254.8 MB", "254.8 MB", "99 bytes"],
        "Tokens per second": ["71.1", "70.9", "–"],
    }


def test_the_page_needs_no_network(html: str) -> None:
    assert not re.search(r"https?:|//|@import|<link|<script|<img|javascript:", html)
    assert "default-src 'none'" in html


def test_completions_are_only_text(html: str) -> None:
    texts = "".join(Page(html).texts)
    assert texts.count('<script>alert(1)</script> & "quotes" [red]markup[/red]') == 6
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", html)
    assert "Fine.\n\tIndeed." in texts


def test_an_empty_report_has_no_sections(tmp_path: Path) -> None:
    html = write_report(RunReport(title="Empty", comparison={}), tmp_path).read_text()
    Page(html)
    assert "<h2>" not in html


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(RunReport(title="Old", comparison={}), tmp_path)

    def raise_disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", raise_disk_full)
    with pytest.raises(UserError, match="the disk is full"):
        write_report(RunReport(title="New", comparison={}), tmp_path)
    assert "Old" in path.read_text()
    assert [*tmp_path.iterdir()] == [path]


def test_metrics_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert read_metrics(path) == RECORDS


def test_the_console_shows_the_same_numbers_and_no_markup() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    print_table(COMPARISON, table_rows(COMPARISON), console=console)
    print_samples([Sample(NASTY, {"student after": NASTY})], console=console)
    text = console.file.getvalue()  # pyright: ignore
    for shown in ("3.9877", "65.4 %", "63.7 M", "254.8 MB", "70.9", "student before"):
        assert shown in text
    assert text.count("[red]markup[/red]") == 2
    assert "\x1b[31m" not in text
    assert "\x07" not in text
