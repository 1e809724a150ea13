"""What is recommended follows from the estimates, and from nothing else."""

import itertools

import pytest

from jaxdistill.compare.recommend import (
    FEWEST_ROWS,
    headline,
    people,
    quality,
    recommend,
    rows_to_tell,
    verdict,
)
from jaxdistill.compare.record import ALL, Record, plain
from jaxdistill.evals import Estimate

LIMIT = 0.05


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (-0.10, -0.02, "within"),
        (0.01, 0.05, "within"),
        (0.04, 0.06, "unclear"),
        (0.05, 0.06, "unclear"),
        (0.06, 0.07, "beyond"),
    ],
)
def test_quality_is_where_the_interval_lies(low: float, high: float, found: str):
    extra = Estimate((low + high) / 2, low, high)
    assert quality(extra, LIMIT, num_rows=FEWEST_ROWS) == found
    assert quality(extra, LIMIT, num_rows=FEWEST_ROWS - 1) == "unclear"


def test_people_count_when_they_agree():
    assert people(None) == "silent"
    assert people(Estimate(0.6, 0.4, 0.8)) == "silent"
    assert people(Estimate(0.7, 0.51, 0.8)) == "for"
    assert people(Estimate(0.2, 0.1, 0.49)) == "against"


def test_every_case_of_the_verdict():
    taken = {
        (q, p, cheaper)
        for q, p, cheaper in itertools.product(
            ("within", "beyond", "unclear"), ("for", "against", "silent"), (True, False)
        )
        if verdict(q, p, is_cheaper=cheaper) == "take"
    }
    assert taken == {
        ("within", "silent", True),
        ("within", "for", True),
        ("unclear", "for", True),
    }
    assert verdict("unclear", "silent", is_cheaper=True) == "unclear"
    assert verdict("beyond", "for", is_cheaper=True) == "unclear"
    for quality_found in ("within", "beyond", "unclear"):
        assert verdict(quality_found, "against", is_cheaper=True) == "keep"
        assert verdict(quality_found, "silent", is_cheaper=False) == "keep"


def test_four_times_the_rows_halve_an_interval():
    # 0.02 from the limit and 0.04 wide to each side: it must become half as wide.
    extra = Estimate(0.07, 0.03, 0.11)
    assert rows_to_tell(extra, LIMIT, num_rows=50) == pytest.approx(200)
    assert rows_to_tell(Estimate(0.05, 0.0, 0.1), LIMIT, num_rows=50) is None
    assert rows_to_tell(Estimate(0.0501, 0.0, 0.1), LIMIT, num_rows=50) is None


def noted(extra: dict[str, Estimate], speed: dict[str, float], rows: int = 50) -> Record:
    record = Record()
    record.add(ALL, "rows", rows)
    record.add(ALL, "tolerance", 0.05)
    record.add("big", "bits_per_byte", Estimate(1.0, 0.9, 1.1))
    record.add("big", "accepted_extra", LIMIT)
    record.add("big", "words_per_second", 100)
    for name, estimate in extra.items():
        record.add(name, "extra_bits_per_byte", estimate)
        record.add(name, "words_per_second", 100 * (1 + speed[name]))
        record.add(name, "relative_speed", speed[name])
    return record


GOOD, BAD, OPEN = Estimate(0.01, 0.0, 0.02), Estimate(0.3, 0.2, 0.4), Estimate(0.05, 0.0, 0.1)


@pytest.mark.parametrize(
    ("extra", "speed", "found", "model"),
    [
        ({"a": GOOD}, {"a": 1.0}, "take", "a"),
        ({"a": GOOD}, {"a": 0.04}, "keep", "big"),  # too little to notice
        ({"a": BAD}, {"a": 1.0}, "keep", "big"),
        ({"a": OPEN}, {"a": 1.0}, "unclear", ""),
        ({"a": GOOD, "b": GOOD}, {"a": 1.0, "b": 2.0}, "take", "b"),
        ({"a": GOOD, "b": BAD}, {"a": 1.0, "b": 2.0}, "take", "a"),
        ({"a": OPEN, "b": BAD}, {"a": 1.0, "b": 2.0}, "unclear", ""),
    ],
)
def test_what_is_recommended(extra, speed, found, model):
    recommendation = recommend(noted(extra, speed), "big", list(extra))
    assert (recommendation.verdict, recommendation.model) == (found, model)


def test_prices_come_before_speed():
    record = noted({"a": GOOD}, {"a": 3.0})
    record.add("big", "cost_per_million_words", 2.0)
    record.add("a", "cost_per_million_words", 3.0)
    record.add("a", "relative_price", 0.5)
    found = recommend(record, "big", ["a"])
    assert found.verdict == "keep"
    assert "Price: a million words cost $3.00 with a and $2.00 with big (+50 %)" in plain(
        found.advice[0].reasons[1]
    )


def test_reasons_name_the_numbers():
    record = noted({"a": OPEN}, {"a": 1.0})
    found = recommend(record, "big", ["a"])
    assert plain(headline(found, record)) == "This cannot be told from these 50 rows."
    said = [plain(reason) for reason in found.advice[0].reasons]
    assert said == [
        "Quality: a needs +0.050 bits per byte beside big [+0.000, +0.100], which may or may "
        "not be accepted: the limit is +0.050, 5 % of what big needs.",
        "Rows: so close to the limit, far more than 50 would be needed to tell.",
        "Speed: words per second are 200.0 with a and 100.0 with big (+100 %), a saving worth a "
        "change.",
    ]


def test_people_are_heard():
    record = noted({"a": OPEN}, {"a": 1.0})
    for quantity, count in (("wins", 9), ("ties", 1), ("losses", 0)):
        record.add("a", quantity, count)
    record.add("a", "preferred", Estimate(0.95, 0.7, 1.0))
    found = recommend(record, "big", ["a"])
    assert found.verdict == "take"
    assert plain(found.advice[0].reasons[-1]).startswith(
        "People: of a's answers they found 9 better, 1 as good and 0 worse than big's, so that its "
        "share is 95.0 % [70.0 %, 100.0 %]"
    )
