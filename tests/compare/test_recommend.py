"""What is recommended follows from the estimates, and from nothing else."""

import itertools
from collections.abc import Mapping

import pytest

from jaxdistill.compare.decision_rules import (
    MIN_MEASURED_SAVING,
    MIN_ROWS,
    MIN_SAVING,
    decide,
    estimate_rows_needed,
    is_cheaper,
    judge_preference,
    judge_quality,
    worst_status,
)
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics, format_plain
from jaxdistill.compare.recommendation import format_headline, recommend
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
    assert judge_quality(extra, LIMIT) == found
    assert judge_quality(None, LIMIT) == "few"


def test_people_count_when_they_agree():
    assert judge_preference(None) == "silent"
    assert judge_preference(Estimate(0.6, 0.4, 0.8)) == "silent"
    assert judge_preference(Estimate(0.7, 0.51, 0.8)) == "for"
    assert judge_preference(Estimate(0.2, 0.1, 0.49)) == "against"


def test_every_case_of_the_verdict():
    taken = {
        (q, p, cheaper)
        for q, p, cheaper in itertools.product(
            ("within", "beyond", "unclear", "few"), ("for", "against", "silent"), (True, False)
        )
        if decide(q, p, is_cheaper=cheaper) == "take"
    }
    assert taken == {
        ("within", "silent", True),
        ("within", "for", True),
        ("unclear", "for", True),
    }
    assert decide("unclear", "silent", is_cheaper=True) == "unclear"
    assert decide("beyond", "for", is_cheaper=True) == "disputed"
    assert decide("few", "for", is_cheaper=True) == "unclear"
    for quality_found in ("within", "beyond", "unclear", "few"):
        assert decide(quality_found, "against", is_cheaper=True) == "keep"
        for heard in ("for", "against", "silent"):  # nothing is gained by it
            assert decide(quality_found, heard, is_cheaper=False) == "keep"


def test_four_times_the_rows_halve_an_interval():
    # 0.02 from the limit and 0.04 wide to each side: it must become half as wide.
    extra = Estimate(0.07, 0.03, 0.11)
    assert estimate_rows_needed(extra, LIMIT, num_rows=50) == pytest.approx(200)
    # Only the side that faces the limit counts, whichever is longer.
    assert estimate_rows_needed(Estimate(0.02, -0.05, 0.06), LIMIT, num_rows=90) == pytest.approx(
        160
    )
    assert estimate_rows_needed(Estimate(0.08, 0.04, 0.09), LIMIT, num_rows=90) == pytest.approx(
        160
    )
    assert estimate_rows_needed(Estimate(0.05, 0.05, 0.05), LIMIT, num_rows=3) == MIN_ROWS
    assert estimate_rows_needed(None, LIMIT, num_rows=3) == MIN_ROWS
    assert estimate_rows_needed(Estimate(0.05, 0.0, 0.1), LIMIT, num_rows=50) is None
    assert estimate_rows_needed(Estimate(0.0501, 0.0, 0.1), LIMIT, num_rows=50) is None


def noted(
    extra: Mapping[str, Estimate | float], speed: dict[str, float], rows: int = 50
) -> ComparisonMetrics:
    record = ComparisonMetrics()
    record.add(ALL_MODELS, "rows", rows)
    record.add(ALL_MODELS, "tolerance", 0.05)
    record.add("big", "bits_per_byte", Estimate(1.0, 0.9, 1.1))
    record.add("big", "accepted_extra", LIMIT)
    record.add("big", "words_per_second", 100)
    for name, estimate in extra.items():
        record.add(name, "extra_bits_per_byte", estimate)
        record.add(name, "words_per_second", 100 * (1 + speed[name]))
        record.add(name, "relative_speed", speed[name])
        record.add(name, "least_saving", MIN_MEASURED_SAVING)
    return record


GOOD, BAD, OPEN = Estimate(0.01, 0.0, 0.02), Estimate(0.3, 0.2, 0.4), Estimate(0.05, 0.0, 0.1)


@pytest.mark.parametrize(
    ("extra", "speed", "found", "model"),
    [
        ({"a": GOOD}, {"a": 1.0}, "take", "a"),
        ({"a": GOOD}, {"a": 0.33}, "keep", "big"),  # a quarter of the time is a third more speed
        ({"a": GOOD}, {"a": 0.34}, "take", "a"),
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
    assert "Price: a million words cost $3.00 with a and $2.00 with big (+50 %)" in format_plain(
        found.advice[0].reasons[1]
    )


def test_every_measure_of_quality_must_hold():
    assert worst_status(["within", "within"]) == "within"
    assert worst_status(["within", "unclear"]) == "unclear"
    assert worst_status(["unclear", "beyond"]) == "beyond"
    assert worst_status(["few", "unclear", "within"]) == "few"


@pytest.mark.parametrize(
    ("worse", "found", "said"),
    [
        (Estimate(0.85, 0.8, 0.9), "keep", "[+80.0 points, +90.0 points], which is too much"),
        (
            Estimate(0.03, 0.0, 0.06),
            "unclear",
            "[+0.0 points, +6.0 points], which may or may not be",
        ),
        (Estimate(0.0, -0.01, 0.01), "take", "[−1.0 points, +1.0 points], which is accepted"),
    ],
)
def test_a_task_counts_as_quality(worse, found, said):
    record = noted({"a": GOOD}, {"a": 1.0})
    record.add("big", "task/exact_match", 0.9)
    record.add("a", "task/exact_match", 0.9 - worse.value)
    record.add("big", "accepted_task_loss", 0.045)
    record.add("a", "task_loss", worse)
    recommendation = recommend(record, "big", ["a"])
    assert recommendation.verdict == found
    reason = format_plain(recommendation.advice[0].reasons[1])
    assert reason.startswith("Task: exact match is ")
    assert said in reason
    assert reason.endswith("the limit is +4.5 points, 5 % of what big has.")


def test_what_costs_nothing_is_a_price_like_any_other():
    assert not is_cheaper(5.0, 0.0, relative_speed=1.0)
    assert not is_cheaper(0.0, 0.0, relative_speed=1.0)
    assert is_cheaper(0.0, 5.0, relative_speed=-0.5)
    assert is_cheaper(None, 5.0, relative_speed=1.0)
    assert not is_cheaper(4.0, 5.0, relative_speed=1.0)
    assert is_cheaper(3.7, 5.0, relative_speed=1.0)
    assert not is_cheaper(4.8, 5.0, relative_speed=1.0, min_saving=MIN_SAVING)
    assert is_cheaper(4.7, 5.0, relative_speed=1.0, min_saving=MIN_SAVING)
    record = noted({"a": GOOD}, {"a": 1.0})
    record.add("big", "cost_per_million_words", 0.0)
    record.add("a", "cost_per_million_words", 5.0)
    found = recommend(record, "big", ["a"])
    assert found.verdict == "keep"
    assert [format_plain(reason) for reason in found.advice[0].reasons[1:]] == [
        "Price: a million words cost $5.00 with a and $0.0000 with big, no saving worth a "
        "change (more than 25 % of the price).",
        "Speed: words per second are 200.0 with a and 100.0 with big (+100 %).",
    ]


@pytest.mark.parametrize("speed", [-0.5, 0.0, 0.2, 0.3, 0.34, 1.0, 3.0])
def test_a_price_by_the_hour_changes_no_verdict(speed: float):
    by_speed = is_cheaper(None, None, relative_speed=speed)
    assert is_cheaper(2.0 / (1 + speed), 2.0, relative_speed=speed) == by_speed


def test_of_those_that_can_be_taken_the_cheapest_known_price_comes_first():
    speed = {"fast": 9.0, "dear": 1.0, "cheap": 1.0}
    record = noted(dict.fromkeys(speed, GOOD), speed)
    record.add("big", "cost_per_million_words", 4.0)
    record.add("dear", "cost_per_million_words", 2.0)
    record.add("cheap", "cost_per_million_words", 0.0)
    assert recommend(record, "big", ["fast", "dear", "cheap"]).model == "cheap"


def test_reasons_name_the_numbers():
    record = noted({"a": OPEN}, {"a": 1.0})
    found = recommend(record, "big", ["a"])
    assert format_plain(format_headline(found, record)) == "This cannot be told from 50 rows."
    said = [format_plain(reason) for reason in found.advice[0].reasons]
    assert said == [
        "Quality: a needs +0.050 bits per byte beside big [+0.000, +0.100], which may or may "
        "not be accepted: the limit is +0.050, 5 % of what big needs.",
        "Rows: so close to the limit, far more than 50 would be needed to tell.",
        "Speed: words per second are 200.0 with a and 100.0 with big (+100 %), a saving worth a "
        "change (more than 25 % of the time).",
    ]


def test_people_are_heard():
    record = noted({"a": OPEN}, {"a": 1.0})
    for quantity, count in (("wins", 9), ("ties", 1), ("losses", 0)):
        record.add("a", quantity, count)
    record.add("a", "preferred", Estimate(0.95, 0.7, 1.0))
    found = recommend(record, "big", ["a"])
    assert found.verdict == "take"
    assert format_plain(found.advice[0].reasons[-1]).startswith(
        "People: of a's answers they found 9 better, 1 as good and 0 worse than big's, so that its "
        "share is 95.0 % [70.0 %, 100.0 %]"
    )


@pytest.mark.parametrize(
    ("extra", "found", "said"),
    [
        ({"a": BAD}, "disputed", "People and numbers disagree."),
        ({"a": BAD, "b": BAD}, "disputed", "People and numbers disagree."),
        ({"a": BAD, "b": OPEN}, "unclear", "This cannot be told from 50 rows."),
        ({"a": BAD, "b": GOOD}, "take", "Take b."),
    ],
)
def test_people_who_prefer_what_numbers_refuse_are_not_told_to_bring_rows(extra, found, said):
    record = noted(extra, dict.fromkeys(extra, 1.0))
    for quantity, count in (("wins", 9), ("ties", 0), ("losses", 0)):
        record.add("a", quantity, count)
    record.add("a", "preferred", Estimate(1.0, 0.7, 1.0))
    recommendation = recommend(record, "big", list(extra))
    assert recommendation.advice[0].verdict == "disputed"
    assert recommendation.verdict == found
    assert format_plain(format_headline(recommendation, record)) == said


def test_nobody_outvotes_rows_that_are_not_there():
    record = noted({"a": 1.358}, {"a": 1.0}, rows=11)
    record.add("a", "rows_to_tell", 20)
    for quantity, count in (("wins", 9), ("ties", 0), ("losses", 0)):
        record.add("a", quantity, count)
    record.add("a", "preferred", Estimate(1.0, 0.7, 1.0))
    found = recommend(record, "big", ["a"])
    assert found.verdict == "unclear"
    assert [format_plain(reason) for reason in found.advice[0].reasons[:2]] == [
        "Quality: a needs +1.358 bits per byte beside big, but fewer than 20 rows "
        "tell nothing; the limit is +0.050, 5 % of what big needs.",
        "Rows: 11 here; at least 20 are needed to tell.",
    ]
    record.add(ALL_MODELS, "rows", 1)
    assert format_plain(format_headline(found, record)) == "This cannot be told from 1 row."
