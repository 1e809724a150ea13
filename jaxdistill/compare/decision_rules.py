"""The rules of a recommendation, as pure functions of estimates: they know no model and no page."""

from collections.abc import Iterable
from typing import Final, Literal

from jaxdistill.evals import Estimate

MIN_ROWS = 20
"""An interval from fewer rows than these says little of the next one."""

MIN_SAVING = 0.05
"""A given price that is lower by less than this fraction is not lower."""

MIN_MEASURED_SAVING = 0.25
"""The same of measured times, and of prices that follow from them: no two takes are the same."""

_MAX_ROWS_FACTOR = 100
"""More than so many times the rows there are is only said to be many more."""

QualityStatus = Literal["within", "beyond", "unclear", "few"]
Preference = Literal["for", "against", "silent"]
Verdict = Literal["take", "keep", "unclear", "disputed"]

_STATUSES_WORST_FIRST: Final[tuple[QualityStatus, ...]] = ("beyond", "few", "unclear")


def judge_quality(degradation: Estimate | None, limit: float) -> QualityStatus:
    """Whether what a candidate pays more, in bits per byte, is accepted.

    `unclear` is neither; `few` rows have no interval, and tell nothing.
    """
    if degradation is None:
        return "few"
    if degradation.low <= limit < degradation.high:
        return "unclear"
    return "within" if degradation.high <= limit else "beyond"


def worst_status(statuses: Iterable[QualityStatus]) -> QualityStatus:
    """What several measures of quality say: the worst of them is enough."""
    there = set(statuses)
    for one in _STATUSES_WORST_FIRST:
        if one in there:
            return one
    return "within"


def judge_preference(preferred_share: Estimate | None) -> Preference:
    """Whether people like a candidate's answers better than the first model's, or worse."""
    if preferred_share is None or preferred_share.low <= 0.5 <= preferred_share.high:
        return "silent"
    return "for" if preferred_share.low > 0.5 else "against"


def decide(status: QualityStatus, preference: Preference, *, is_cheaper: bool) -> Verdict:
    """What to do about one candidate.

    People who judged it worse are heard before any number; people who judged it better decide
    where the numbers do not, but neither outvote them nor stand for rows that are not there.
    `disputed` is where numbers and people contradict each other, which no more rows would settle.
    """
    if preference == "against" or not is_cheaper:
        return "keep"
    if status == "beyond":
        return "disputed" if preference == "for" else "keep"
    if status == "few":
        return "unclear"
    return "unclear" if status == "unclear" and preference != "for" else "take"


def estimate_rows_needed(
    degradation: Estimate | None, limit: float, *, num_rows: int
) -> float | None:
    """About how many rows would tell, as intervals narrow by the root of their number.

    Without an interval the fewest that have one; None where it would be very many.
    """
    if degradation is None:
        return float(MIN_ROWS)
    distance = abs(limit - degradation.value)
    # The side that faces the limit is the one that has to become narrower than the way to it.
    side = (
        degradation.value - degradation.low
        if limit < degradation.value
        else degradation.high - degradation.value
    )
    if not side:
        return float(max(num_rows, MIN_ROWS))
    needed = num_rows * (side / distance) ** 2 if distance else None
    if needed is None or needed > _MAX_ROWS_FACTOR * num_rows:
        return None
    return max(needed, float(MIN_ROWS))


def is_cheaper(
    candidate_price: float | None,
    baseline_price: float | None,
    *,
    relative_speed: float,
    min_saving: float = MIN_MEASURED_SAVING,
) -> bool:
    """Whether a candidate saves money, or time where not both prices are known.

    Args:
        price: Of so many words, the candidate's.
        today: The first model's.
        speed: How much faster the candidate is, as a fraction.
        least: What saving counts, as a fraction of the price or the time.
    """
    if candidate_price is None or baseline_price is None:
        # What prices by the hour would be: both ways of asking have one limit.
        candidate_price, baseline_price = 1 / (1 + relative_speed), 1.0
    return candidate_price < (1 - min_saving) * baseline_price
