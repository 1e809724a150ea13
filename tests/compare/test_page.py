"""Numbers and answers as the page writes them."""

import pytest

from jaxdistill.compare.page import _sample
from jaxdistill.compare.record import Record, plain
from jaxdistill.report import Sample


@pytest.mark.parametrize(
    ("value", "said"),
    [(302.52, "+30,252 %"), (0.0291 / 8.84 - 1, "−99.7 %"), (-1.0, "−100 %"), (-0.5, "−50 %")],
)
def test_what_is_not_quite_nothing_is_not_said_to_be(value: float, said: str):
    record = Record()
    record.add("a", "relative_price", value)
    assert plain((record.said("a", "relative_price"),)) == said


def test_answers_have_no_holes_and_no_words_of_ours():
    html = _sample("a", Sample("Why?", {"a": "One.\n\n \n\nTwo.", "b": " "}))
    assert "One.\n\nTwo." in html
    assert '<span class="none">[no answer]</span>' in html
