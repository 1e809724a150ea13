"""Texts of metrics and completions on the page."""

import pytest

from jaxdistill.compare.metrics import ComparisonMetrics, pluralize
from jaxdistill.compare.page import _render_sample
from jaxdistill.report import Sample


@pytest.mark.parametrize(
    ("value", "text"),
    [(302.52, "+30,252 %"), (0.0291 / 8.84 - 1, "−99.7 %"), (-1.0, "−100 %"), (-0.5, "−50 %")],
)
def test_only_a_fall_to_zero_reads_minus_100_percent(value: float, text: str):
    metrics = ComparisonMetrics(["a"])
    metrics.add("a", "relative_price", value)
    assert metrics.show("a", "relative_price") == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1001, "1,001 rows")]
)
def test_only_one_row_is_singular(count: int, text: str):
    metrics = ComparisonMetrics(["a"])
    metrics.add("", "rows", count)
    assert pluralize(metrics.show("", "rows"), "row") == text


def test_completions_have_no_holes_and_an_empty_one_is_no_text():
    html = _render_sample("a", Sample("Why?", {"a": "One.\n\n \n\nTwo.", "b": " "}))
    assert "One.\n\nTwo." in html
    assert '<span class="none">[no answer]</span>' in html
