"""The recommendation follows from the estimates, and from nothing else."""

import itertools
from collections.abc import Mapping

import pytest

from jaxdistill.compare.costs import MIN_MEASURED_SAVING, MIN_SAVING
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics
from jaxdistill.compare.recommendation import (
    decide,
    is_cheaper,
    judge_preference,
    judge_quality,
    recommend,
)
from jaxdistill.evals import Estimate

LIMIT = 0.05


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (-0.10, -0.02, "within"),
        (0.01, 0.05, "within"),
        (0.04, 0.06, "unclear"),
        (0.05, 0.06, "unclear"),
        (0.06, 0.07, "beyond"),
    ],
)
def test_quality_depends_on_the_interval_and_the_limit(low: float, high: float, status: str):
    extra = Estimate((low + high) / 2, low, high)
    assert judge_quality(extra, LIMIT) == status
    assert judge_quality(None, LIMIT) == "few"


def test_preference_must_be_clear():
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
    for status in ("within", "beyond", "unclear", "few"):
        assert decide(status, "against", is_cheaper=True) == "keep"
        for preference in ("for", "against", "silent"):  # nothing is saved
            assert decide(status, preference, is_cheaper=False) == "keep"


def make_metrics(
    extra: Mapping[str, Estimate | float], speed: dict[str, float], num_rows: int = 50
) -> ComparisonMetrics:
    metrics = ComparisonMetrics(["big", *extra])
    metrics.add(ALL_MODELS, "rows", num_rows)
    metrics.add(ALL_MODELS, "tolerance", 0.05)
    metrics.add("big", "bits_per_byte", Estimate(1.0, 0.9, 1.1))
    metrics.add("big", "accepted_extra", LIMIT)
    metrics.add("big", "words_per_second", 100)
    for name, estimate in extra.items():
        metrics.add(name, "extra_bits_per_byte", estimate)
        metrics.add(name, "words_per_second", 100 * (1 + speed[name]))
        metrics.add(name, "relative_speed", speed[name])
        metrics.add(name, "least_saving", MIN_MEASURED_SAVING)
    return metrics


def add_wins(metrics: ComparisonMetrics, share: Estimate, ties: int = 0) -> None:
    for quantity, count in (("wins", 9), ("ties", ties), ("losses", 0), ("not_judged", 2)):
        metrics.add("a", quantity, count)
    metrics.add("a", "preferred", share)


GOOD, BAD, OPEN = Estimate(0.01, 0.0, 0.02), Estimate(0.3, 0.2, 0.4), Estimate(0.05, 0.0, 0.1)


@pytest.mark.parametrize(
    ("extra", "speed", "verdict", "model"),
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
def test_the_verdict_follows_from_quality_and_speed(extra, speed, verdict, model):
    recommendation = recommend(make_metrics(extra, speed))
    assert (recommendation.verdict, recommendation.model) == (verdict, model)


def test_prices_come_before_speed():
    metrics = make_metrics({"a": GOOD}, {"a": 3.0})
    metrics.add("big", "cost_per_million_words", 2.0)
    metrics.add("a", "cost_per_million_words", 3.0)
    metrics.add("a", "relative_price", 0.5)
    recommendation = recommend(metrics)
    assert recommendation.verdict == "keep"
    price = "Price: a million words cost $3.00 with a and $2.00 with big (+50 %)"
    assert price in recommendation.advice[0].reasons[1]


@pytest.mark.parametrize(
    ("loss", "verdict", "clause"),
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
def test_a_task_counts_as_quality(loss, verdict, clause):
    metrics = make_metrics({"a": GOOD}, {"a": 1.0})
    metrics.add("big", "task/exact_match", 0.9)
    metrics.add("a", "task/exact_match", 0.9 - loss.value)
    metrics.add("big", "accepted_task_loss", 0.045)
    metrics.add("a", "task_loss", loss)
    recommendation = recommend(metrics)
    assert recommendation.verdict == verdict
    reason = recommendation.advice[0].reasons[1]
    assert reason.startswith("Task: exact match is ")
    assert clause in reason
    assert reason.endswith("the limit is +4.5 points, 5 % of what big has.")


def test_a_price_of_0_is_a_price():
    measured = {"min_saving": MIN_MEASURED_SAVING}
    assert not is_cheaper(5.0, 0.0, relative_speed=1.0, **measured)
    assert not is_cheaper(0.0, 0.0, relative_speed=1.0, **measured)
    assert is_cheaper(0.0, 5.0, relative_speed=-0.5, **measured)
    assert is_cheaper(None, 5.0, relative_speed=1.0, **measured)
    assert not is_cheaper(4.0, 5.0, relative_speed=1.0, **measured)
    assert is_cheaper(3.7, 5.0, relative_speed=1.0, **measured)
    assert not is_cheaper(4.8, 5.0, relative_speed=1.0, min_saving=MIN_SAVING)
    assert is_cheaper(4.7, 5.0, relative_speed=1.0, min_saving=MIN_SAVING)
    metrics = make_metrics({"a": GOOD}, {"a": 1.0})
    metrics.add("big", "cost_per_million_words", 0.0)
    metrics.add("a", "cost_per_million_words", 5.0)
    recommendation = recommend(metrics)
    assert recommendation.verdict == "keep"
    assert list(recommendation.advice[0].reasons[1:]) == [
        "Price: a million words cost $5.00 with a and $0.00 with big, no saving worth a "
        "change (more than 25 % of the price).",
        "Speed: words per second are 200.0 with a and 100.0 with big (+100 %).",
    ]


@pytest.mark.parametrize("speed", [-0.5, 0.0, 0.2, 0.3, 0.34, 1.0, 3.0])
def test_a_price_by_the_hour_changes_no_verdict(speed: float):
    options = {"relative_speed": speed, "min_saving": MIN_MEASURED_SAVING}
    assert is_cheaper(2.0 / (1 + speed), 2.0, **options) == is_cheaper(None, None, **options)


def test_the_cheapest_known_price_is_taken():
    speed = {"fast": 9.0, "dear": 1.0, "cheap": 1.0}
    metrics = make_metrics(dict.fromkeys(speed, GOOD), speed)
    metrics.add("big", "cost_per_million_words", 4.0)
    metrics.add("dear", "cost_per_million_words", 2.0)
    metrics.add("cheap", "cost_per_million_words", 0.0)
    assert recommend(metrics).model == "cheap"


def test_reasons_name_the_numbers():
    metrics = make_metrics({"a": OPEN}, {"a": 1.0})
    recommendation = recommend(metrics)
    assert recommendation.headline == "This cannot be decided from 50 rows."
    assert list(recommendation.advice[0].reasons) == [
        "Quality: a needs +0.050 [+0.000, +0.100] bits per byte beside big, which may or may "
        "not be accepted: the limit is +0.050, 5 % of what big needs.",
        "Rows: 50 rows cannot decide this. Give more rows.",
        "Speed: words per second are 200.0 with a and 100.0 with big (+100 %), a saving worth a "
        "change (more than 25 % of the time).",
    ]


def test_people_decide_where_numbers_are_unclear():
    metrics = make_metrics({"a": OPEN}, {"a": 1.0})
    add_wins(metrics, Estimate(0.95, 0.7, 1.0), ties=1)
    recommendation = recommend(metrics)
    assert recommendation.verdict == "take"
    assert recommendation.advice[0].reasons[-1] == (
        "People: of a's answers they found 9 better, 1 as good and 0 worse than big's, 2 not "
        "judged; its share, ties as halves, is 95.0 % [70.0 %, 100.0 %]: they prefer a."
    )


def test_a_sheet_without_judgements_is_counted_and_does_not_decide():
    metrics = make_metrics({"a": GOOD}, {"a": 1.0})
    for quantity, count in (("wins", 0), ("ties", 0), ("losses", 0), ("not_judged", 3)):
        metrics.add("a", quantity, count)
    recommendation = recommend(metrics)
    assert recommendation.verdict == "take"
    assert recommendation.advice[0].reasons[-1] == (
        "People: of a's answers they found 0 better, 0 as good and 0 worse than big's, 3 not "
        "judged."
    )


@pytest.mark.parametrize(
    ("extra", "verdict", "headline"),
    [
        ({"a": BAD}, "disputed", "People and numbers disagree."),
        ({"a": BAD, "b": BAD}, "disputed", "People and numbers disagree."),
        ({"a": BAD, "b": OPEN}, "unclear", "This cannot be decided from 50 rows."),
        ({"a": BAD, "b": GOOD}, "take", "Take b."),
    ],
)
def test_people_who_contradict_clear_numbers_are_a_dispute(extra, verdict, headline):
    metrics = make_metrics(extra, dict.fromkeys(extra, 1.0))
    add_wins(metrics, Estimate(1.0, 0.7, 1.0))
    recommendation = recommend(metrics)
    assert recommendation.advice[0].verdict == "disputed"
    assert recommendation.verdict == verdict
    assert recommendation.headline == headline


def test_people_do_not_replace_missing_rows():
    metrics = make_metrics({"a": 1.358}, {"a": 1.0}, num_rows=11)
    add_wins(metrics, Estimate(1.0, 0.7, 1.0))
    recommendation = recommend(metrics)
    assert recommendation.verdict == "unclear"
    assert list(recommendation.advice[0].reasons[:2]) == [
        "Quality: a needs +1.358 bits per byte beside big, but fewer than 20 rows "
        "decide nothing; the limit is +0.050, 5 % of what big needs.",
        "Rows: 11 rows cannot decide this. Give more rows.",
    ]
    metrics.add(ALL_MODELS, "rows", 1)
    assert recommend(metrics).headline == "This cannot be decided from 1 row."
