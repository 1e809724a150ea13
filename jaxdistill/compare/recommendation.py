"""What to do, by plain rules: take a candidate, keep the first model, or say that nobody can tell.

What is said names the numbers that decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxdistill.compare.decision_rules import (
    MIN_ROWS,
    Preference,
    QualityStatus,
    Verdict,
    decide,
    estimate_rows_needed,
    is_cheaper,
    judge_preference,
    judge_quality,
    worst_status,
)
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics, Sentence, pluralize
from jaxdistill.evals import Estimate


@dataclass(frozen=True)
class CandidateAdvice:
    """What is said of one candidate.

    Attributes:
        candidate: Its name.
        verdict: Whether to take it.
        reasons: Why.
    """

    candidate: str
    verdict: Verdict
    reasons: tuple[Sentence, ...]


@dataclass(frozen=True)
class Recommendation:
    """What is said of all of them.

    Attributes:
        verdict: Whether to take one.
        model: The one to take, or the one to keep; nothing where it is neither.
        advice: What is said of each candidate.
    """

    verdict: Verdict
    model: str
    advice: tuple[CandidateAdvice, ...]


@dataclass(frozen=True)
class QualityCheck:
    """A measure of quality that must be within its limit.

    Attributes:
        quantity: By how much a candidate is worse, as the record names it.
        accepted: The limit, as the record names it.
        quality: Whether it is within it.
        rows_to_tell: How many rows would tell; None where very many.
    """

    quantity: str
    limit_quantity: str
    status: QualityStatus
    num_rows_needed: float | None


def check_quality(metrics: ComparisonMetrics, baseline: str, candidate: str) -> list[QualityCheck]:
    """What is known of a candidate's quality: bits per byte and, where there is one, a task."""
    rows, left_out = (
        _get_value(metrics, ALL_MODELS, "rows"),
        _get_value(metrics, ALL_MODELS, "rows_left_out"),
    )
    assert rows is not None
    found = []
    for quantity, accepted, num_rows in (
        ("extra_bits_per_byte", "accepted_extra", int(rows)),
        # A task asks every row.
        ("task_loss", "accepted_task_loss", int(rows + (left_out or 0))),
    ):
        limit = _get_value(metrics, baseline, accepted)
        if limit is not None and metrics.get(candidate, quantity) is not None:
            extra = _get_estimate(metrics, candidate, quantity)
            told = judge_quality(extra, limit)
            needed = estimate_rows_needed(extra, limit, num_rows=num_rows)
            found.append(QualityCheck(quantity, accepted, told, needed))
    return found


def recommend(
    metrics: ComparisonMetrics, baseline: str, candidates: Sequence[str]
) -> Recommendation:
    """What the record says about each candidate, and about all of them together."""
    advice = tuple(_advise_on(metrics, baseline, name) for name in candidates)
    taken = [one.candidate for one in advice if one.verdict == "take"]
    if taken:
        return Recommendation(
            "take", min(taken, key=lambda name: _ranking_key(metrics, name)), advice
        )
    for undecided in ("unclear", "disputed"):
        if any(one.verdict == undecided for one in advice):
            return Recommendation(undecided, "", advice)
    return Recommendation("keep", baseline, advice)


def format_headline(recommendation: Recommendation, metrics: ComparisonMetrics) -> Sentence:
    """The recommendation in a few words."""
    if recommendation.verdict == "unclear":
        return (
            "This cannot be told from ",
            *pluralize(metrics.show(ALL_MODELS, "rows"), "row"),
            ".",
        )
    if recommendation.verdict == "disputed":
        return ("People and numbers disagree.",)
    start = "Take" if recommendation.verdict == "take" else "Keep"
    return (f"{start} {recommendation.model}.",)


def _advise_on(metrics: ComparisonMetrics, baseline: str, candidate: str) -> CandidateAdvice:
    checked = check_quality(metrics, baseline, candidate)
    found = worst_status(one.status for one in checked)
    heard = judge_preference(_get_estimate(metrics, candidate, "preferred"))
    cheaper, savings = _check_savings(metrics, baseline, candidate)
    about = (_quality_reason, _task_reason)
    reasons = [
        say(metrics, baseline, candidate, one) for say, one in zip(about, checked, strict=False)
    ]
    if found in ("unclear", "few"):
        reasons.append(_num_rows_reason(metrics, candidate, found))
    reasons += savings
    if metrics.get(candidate, "preferred") is not None:
        reasons.append(_preference_reason(metrics, baseline, candidate, heard))
    return CandidateAdvice(candidate, decide(found, heard, is_cheaper=cheaper), tuple(reasons))


def _quality_reason(
    metrics: ComparisonMetrics, baseline: str, candidate: str, check: QualityCheck
) -> Sentence:
    return (
        f"Quality: {candidate} needs ",
        metrics.show(candidate, check.quantity),
        f" bits per byte beside {baseline}",
        *_limit_clause(metrics, baseline, candidate, check),
        f" of what {baseline} needs.",
    )


def _task_reason(
    metrics: ComparisonMetrics, baseline: str, candidate: str, check: QualityCheck
) -> Sentence:
    task = next(line.quantity for line in metrics if line.quantity.startswith("task/"))
    return (
        f"{metrics.quantity(task).label} is ",
        metrics.show(candidate, task),
        f" with {candidate} and ",
        metrics.show(baseline, task),
        f" with {baseline}, worse by ",
        metrics.show(candidate, check.quantity),
        *_limit_clause(metrics, baseline, candidate, check),
        f" of what {baseline} has.",
    )


def _limit_clause(
    metrics: ComparisonMetrics, baseline: str, candidate: str, check: QualityCheck
) -> Sentence:
    judged = {
        "within": "which is accepted:",
        "beyond": "which is too much:",
        "unclear": "which may or may not be accepted:",
        "few": f"but fewer than {MIN_ROWS} rows tell nothing;",
    }[check.status]
    return (
        *metrics.show_interval(candidate, check.quantity),
        f", {judged} the limit is ",
        metrics.show(baseline, check.limit_quantity),
        ", ",
        metrics.show(ALL_MODELS, "tolerance"),
    )


def _num_rows_reason(metrics: ComparisonMetrics, candidate: str, status: QualityStatus) -> Sentence:
    rows = metrics.show(ALL_MODELS, "rows")
    if metrics.get(candidate, "rows_to_tell") is None:
        return ("Rows: so close to the limit, far more than ", rows, " would be needed to tell.")
    more = metrics.show(candidate, "rows_to_tell")
    if status == "few":
        return ("Rows: ", rows, " here; at least ", more, " are needed to tell.")
    return ("Rows: ", rows, " here; about ", more, " of their kind would tell.")


def _check_savings(
    metrics: ComparisonMetrics, baseline: str, candidate: str
) -> tuple[bool, list[Sentence]]:
    """Whether a candidate saves money, or time where no price is known, and both in words."""
    price, today = (
        _get_value(metrics, one, "cost_per_million_words") for one in (candidate, baseline)
    )
    speed = _get_value(metrics, candidate, "relative_speed")
    least = _get_value(metrics, candidate, "least_saving")
    assert speed is not None
    assert least is not None
    saves = is_cheaper(price, today, relative_speed=speed, min_saving=least)
    is_priced = price is not None and today is not None
    decides: Sentence = (
        f", {'a' if saves else 'no'} saving worth a change (more than ",
        metrics.show(candidate, "least_saving"),
        f" of the {'price' if is_priced else 'time'}).",
    )
    found: list[Sentence] = []
    if is_priced:
        cost = ("Price: a million words cost ", "cost_per_million_words", "relative_price")
        found.append((*_compare_quantity(metrics, baseline, candidate, *cost), *decides))
    pace = ("Speed: words per second are ", "words_per_second", "relative_speed")
    start = _compare_quantity(metrics, baseline, candidate, *pace)
    return saves, [*found, (*start, *((".",) if found else decides))]


def _compare_quantity(
    metrics: ComparisonMetrics,
    baseline: str,
    candidate: str,
    opening: str,
    quantity: str,
    relative_quantity: str,
) -> Sentence:
    said: Sentence = (
        opening,
        metrics.show(candidate, quantity),
        f" with {candidate} and ",
        metrics.show(baseline, quantity),
        f" with {baseline}",
    )
    if metrics.get(candidate, relative_quantity) is None:
        return said
    return (*said, " (", metrics.show(candidate, relative_quantity), ")")


def _preference_reason(
    metrics: ComparisonMetrics, baseline: str, candidate: str, preference: Preference
) -> Sentence:
    said = {
        "for": f"they prefer {candidate}",
        "against": f"they prefer {baseline}",
        "silent": "that does not decide",
    }[preference]
    return (
        f"People: of {candidate}'s answers they found ",
        metrics.show(candidate, "wins"),
        " better, ",
        metrics.show(candidate, "ties"),
        " as good and ",
        metrics.show(candidate, "losses"),
        f" worse than {baseline}'s, so that its share is ",
        metrics.show(candidate, "preferred"),
        *metrics.show_interval(candidate, "preferred"),
        f": {said}.",
    )


def _ranking_key(metrics: ComparisonMetrics, candidate: str) -> tuple[bool, float, float]:
    """Priced ones first, the cheapest before all; the others by speed."""
    price = _get_value(metrics, candidate, "cost_per_million_words")
    speed, extra = (
        _get_value(metrics, candidate, one) for one in ("relative_speed", "extra_bits_per_byte")
    )
    assert speed is not None
    assert extra is not None
    return price is None, -speed if price is None else price, extra


def _get_value(metrics: ComparisonMetrics, model: str, quantity: str) -> float | None:
    line = metrics.get(model, quantity)
    return None if line is None else line.value


def _get_estimate(metrics: ComparisonMetrics, model: str, quantity: str) -> Estimate | None:
    line = metrics.get(model, quantity)
    if line is None or line.low is None or line.high is None:
        return None
    return Estimate(line.value, line.low, line.high)
