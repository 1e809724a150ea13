"""Rules that recommend a candidate, the first model or more rows, and the reasons given for it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from jaxdistill.compare.metrics import ALL_MODELS, MIN_ROWS, ComparisonMetrics, pluralize
from jaxdistill.evals import Estimate

QualityStatus = Literal["beyond", "few", "unclear", "within"]  # the worst first
Preference = Literal["for", "against", "silent"]
Verdict = Literal["take", "keep", "unclear", "disputed"]


class CandidateAdvice(NamedTuple):
    """Verdict on one candidate, with reasons of the form `Topic: sentence`."""

    candidate: str
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """Verdict on all candidates together, and on each.

    `model` is the model to take or to keep; empty if that is open.
    """

    verdict: Verdict
    model: str
    headline: str
    advice: tuple[CandidateAdvice, ...]


def recommend(metrics: ComparisonMetrics) -> Recommendation:
    """Apply the rules to the metrics of a comparison."""
    advice = tuple(_advise_on(metrics, name) for name in metrics.candidates)
    verdicts = {verdict for _, verdict, _ in advice}
    if "take" in verdicts:
        taken = [candidate for candidate, verdict, _ in advice if verdict == "take"]
        model = min(taken, key=lambda name: _ranking_key(metrics, name))
        return Recommendation("take", model, f"Take {model}.", advice)
    if "unclear" in verdicts:
        num_rows = pluralize(metrics.show(ALL_MODELS, "rows"), "row")
        return Recommendation("unclear", "", f"This cannot be decided from {num_rows}.", advice)
    if "disputed" in verdicts:
        return Recommendation("disputed", "", "People and numbers disagree.", advice)
    return Recommendation("keep", metrics.baseline, f"Keep {metrics.baseline}.", advice)


def judge_quality(degradation: Estimate | None, limit: float) -> QualityStatus:
    """Return the status of a degradation: "unclear" around the limit, "few" without an interval."""
    if degradation is None:
        return "few"
    if degradation.low <= limit < degradation.high:
        return "unclear"
    return "within" if degradation.high <= limit else "beyond"


def judge_preference(preferred_share: Estimate | None) -> Preference:
    """Compare the share of preferred completions with one half; "silent" if it is not clear."""
    if preferred_share is None or preferred_share.low <= 0.5 <= preferred_share.high:
        return "silent"
    return "for" if preferred_share.low > 0.5 else "against"


def decide(status: QualityStatus, preference: Preference, *, is_cheaper: bool) -> Verdict:
    """Combine quality, preference and cost into a verdict on one candidate.

    People who prefer the first model overrule every number. People who prefer the candidate decide
    where the numbers are unclear, but replace neither clear numbers nor missing rows. "disputed"
    means that numbers and people contradict each other, which more rows would not settle.
    """
    if preference == "against" or not is_cheaper:
        return "keep"
    if status == "beyond":
        return "disputed" if preference == "for" else "keep"
    if status == "few":
        return "unclear"
    return "unclear" if status == "unclear" and preference != "for" else "take"


def is_cheaper(
    price: float | None, baseline_price: float | None, *, relative_speed: float, min_saving: float
) -> bool:
    """Return True if a candidate saves money, or time unless both prices are known.

    `min_saving` is a fraction of the price or the time, and `relative_speed` 0 at equal speed.
    """
    if price is None or baseline_price is None:
        # Prices per hour of the same machine: with and without them the rule is the same.
        price, baseline_price = 1 / (1 + relative_speed), 1.0
    return price < (1 - min_saving) * baseline_price


def _advise_on(metrics: ComparisonMetrics, candidate: str) -> CandidateAdvice:
    extra = metrics.show_cell(candidate, "extra_bits_per_byte")
    status, limit = _check_limit(metrics, candidate, "extra_bits_per_byte", "accepted_extra")
    statuses: list[QualityStatus] = [status]
    baseline = metrics.baseline
    reasons = [
        f"Quality: {candidate} needs {extra} bits per byte beside {baseline}, {limit} of what "
        f"{baseline} needs."
    ]
    if metrics.get(candidate, "task_loss") is not None:
        status, limit = _check_limit(metrics, candidate, "task_loss", "accepted_task_loss")
        statuses.append(status)
        reasons.append(_task_reason(metrics, candidate, limit))
    if (status := min(statuses, key=get_args(QualityStatus).index)) in ("unclear", "few"):
        num_rows = pluralize(metrics.show(ALL_MODELS, "rows"), "row")
        reasons.append(f"Rows: {num_rows} cannot decide this. Give more rows.")
    has_savings, savings_reasons = _check_savings(metrics, candidate)
    reasons += savings_reasons
    preferred = metrics.get(candidate, "preferred")
    preference = judge_preference(preferred and preferred.estimate)
    if metrics.get(candidate, "wins") is not None:
        reasons.append(_preference_reason(metrics, candidate, preference))
    verdict = decide(status, preference, is_cheaper=has_savings)
    return CandidateAdvice(candidate, verdict, tuple(reasons))


def _check_limit(
    metrics: ComparisonMetrics, candidate: str, quantity: str, limit_quantity: str
) -> tuple[QualityStatus, str]:
    """Return the status of a degradation, and a clause on its limit."""
    metric = metrics.get(candidate, quantity)
    limit = metrics.value(metrics.baseline, limit_quantity)
    status = judge_quality(metric and metric.estimate, limit)
    judgement = {
        "within": "which is accepted:",
        "beyond": "which is too much:",
        "unclear": "which may or may not be accepted:",
        "few": f"but fewer than {MIN_ROWS} rows decide nothing;",
    }[status]
    shown = metrics.show(metrics.baseline, limit_quantity), metrics.show(ALL_MODELS, "tolerance")
    return status, f"{judgement} the limit is {', '.join(shown)}"


def _task_reason(metrics: ComparisonMetrics, candidate: str, limit: str) -> str:
    task = next(metric.quantity for metric in metrics if metric.quantity.startswith("task/"))
    loss = metrics.show_cell(candidate, "task_loss")
    return (
        f"{metrics.quantity(task).label} is {_format_pair(metrics, candidate, task)}, worse by "
        f"{loss}, {limit} of what {metrics.baseline} has."
    )


def _check_savings(metrics: ComparisonMetrics, candidate: str) -> tuple[bool, list[str]]:
    """Return whether a candidate is cheaper, with a reason on price, if it is known, and speed."""
    models = candidate, metrics.baseline
    prices = [metrics.get(name, "cost_per_million_words") for name in models]
    is_priced = None not in prices
    has_savings = is_cheaper(
        *(price and price.value for price in prices),
        relative_speed=metrics.value(candidate, "relative_speed"),
        min_saving=metrics.value(candidate, "least_saving"),
    )
    judgement = (
        f", {'a' if has_savings else 'no'} saving worth a change (more than "
        f"{metrics.show(candidate, 'least_saving')} of the {'price' if is_priced else 'time'})."
    )
    speed = _format_pair(metrics, candidate, "words_per_second", "relative_speed")
    reason = f"Speed: words per second are {speed}"
    if not is_priced:
        return has_savings, [reason + judgement]
    price = _format_pair(metrics, candidate, "cost_per_million_words", "relative_price")
    return has_savings, [f"Price: a million words cost {price}{judgement}", f"{reason}."]


def _format_pair(
    metrics: ComparisonMetrics, candidate: str, quantity: str, relative_quantity: str = ""
) -> str:
    """Return the values of a candidate and the first model, and their ratio if it was recorded."""
    models = candidate, metrics.baseline
    text = " and ".join(f"{metrics.show(name, quantity)} with {name}" for name in models)
    if metrics.get(candidate, relative_quantity) is None:
        return text
    return f"{text} ({metrics.show(candidate, relative_quantity)})"


def _preference_reason(metrics: ComparisonMetrics, candidate: str, preference: Preference) -> str:
    wins, ties, losses, not_judged = (
        metrics.show(candidate, name) for name in ("wins", "ties", "losses", "not_judged")
    )
    counts = (
        f"People: of {candidate}'s answers they found {wins} better, {ties} as good and {losses} "
        f"worse than {metrics.baseline}'s, {not_judged} not judged"
    )
    if metrics.get(candidate, "preferred") is None:
        return f"{counts}."
    judgement = {
        "for": f"they prefer {candidate}",
        "against": f"they prefer {metrics.baseline}",
        "silent": "that does not decide",
    }[preference]
    share = metrics.show_cell(candidate, "preferred")
    return f"{counts}; its share, ties as halves, is {share}: {judgement}."


def _ranking_key(metrics: ComparisonMetrics, candidate: str) -> tuple[bool, float, float]:
    """Sort candidates with prices first, the cheapest before all, and the others by speed."""
    price = metrics.get(candidate, "cost_per_million_words")
    cost = -metrics.value(candidate, "relative_speed") if price is None else price.value
    return price is None, cost, metrics.value(candidate, "extra_bits_per_byte")
