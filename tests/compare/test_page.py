"""Numbers and answers as the page writes them."""

import pytest

from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics, format_plain, pluralize
from jaxdistill.compare.page import _render_sample
from jaxdistill.compare.word_breakdown import _IntervalBars
from jaxdistill.evals import Estimate
from jaxdistill.report import Sample


@pytest.mark.parametrize(
    ("value", "said"),
    [(302.52, "+30,252 %"), (0.0291 / 8.84 - 1, "−99.7 %"), (-1.0, "−100 %"), (-0.5, "−50 %")],
)
def test_what_is_not_quite_nothing_is_not_said_to_be(value: float, said: str):
    record = ComparisonMetrics()
    record.add("a", "relative_price", value)
    assert format_plain((record.show("a", "relative_price"),)) == said


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((-0.05, -0.03, -0.01), ("left:100.00%", "left:0.00%;width:80.00%", "left:40.00%")),
        ((-0.01, 0.01, 0.03), ("left:25.00%", "left:0.00%;width:100.00%", "left:50.00%")),
        ((0.0, 0.0, 0.0), ("left:0.00%", "left:0.00%;width:0.00%", "left:0.00%")),
    ],
)
def test_bars_fill_their_scale_whichever_side_of_nothing_they_are_on(ends, said):
    low, value, high = ends
    record = ComparisonMetrics()
    record.add("a", "extra_bits_per_byte", Estimate(value, low, high), bin="words")
    nothing, interval, dot = (f'style="{one}"' for one in said)
    bar = _IntervalBars(record, "a", ["words"]).render_bar("words")
    assert all(one in bar for one in (f"<u {nothing}>", f"<i {interval}>", f"<b {dot}>")), bar


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1001, "1,001 rows")]
)
def test_one_of_a_thing_is_not_many(count: int, said: str):
    record = ComparisonMetrics()
    record.add(ALL_MODELS, "rows", count)
    assert format_plain(pluralize(record.show(ALL_MODELS, "rows"), "row")) == said


def test_answers_have_no_holes_and_no_words_of_ours():
    html = _render_sample("a", Sample("Why?", {"a": "One.\n\n \n\nTwo.", "b": " "}))
    assert "One.\n\nTwo." in html
    assert '<span class="none">[no answer]</span>' in html
