"""The rules of a recommendation, as pure functions of estimates: they know no model and no page."""

from collections.abc import Iterable
from typing import Final, Literal

from jaxdistill.evals import Estimate

FEWEST_ROWS = 20
"""An interval from fewer rows than these says little of the next one."""

NOTICEABLE = 0.05
"""A given price that is lower by less than this fraction is not lower."""

NOTICEABLE_MEASURED = 0.25
"""The same of measured times, and of prices that follow from them: no two takes are the same."""

_WORTH_SAYING = 100
"""More than so many times the rows there are is only said to be many more."""

Quality = Literal["within", "beyond", "unclear", "few"]
People = Literal["for", "against", "silent"]
Verdict = Literal["take", "keep", "unclear", "disputed"]

_WORST_FIRST: Final[tuple[Quality, ...]] = ("beyond", "few", "unclear")


def quality(extra: Estimate | None, accepted: float) -> Quality:
    """Whether what a candidate pays more, in bits per byte, is accepted.

    `unclear` is neither; `few` rows have no interval, and tell nothing.
    """
    if extra is None:
        return "few"
    if extra.low <= accepted < extra.high:
        return "unclear"
    return "within" if extra.high <= accepted else "beyond"


def together(found: Iterable[Quality]) -> Quality:
    """What several measures of quality say: the worst of them is enough."""
    there = set(found)
    for one in _WORST_FIRST:
        if one in there:
            return one
    return "within"


def people(preferred: Estimate | None) -> People:
    """Whether people like a candidate's answers better than the first model's, or worse."""
    if preferred is None or preferred.low <= 0.5 <= preferred.high:
        return "silent"
    return "for" if preferred.low > 0.5 else "against"


def verdict(quality: Quality, people: People, *, is_cheaper: bool) -> Verdict:
    """What to do about one candidate.

    People who judged it worse are heard before any number; people who judged it better decide
    where the numbers do not, but neither outvote them nor stand for rows that are not there.
    `disputed` is where numbers and people contradict each other, which no more rows would settle.
    """
    if people == "against" or not is_cheaper:
        return "keep"
    if quality == "beyond":
        return "disputed" if people == "for" else "keep"
    if quality == "few":
        return "unclear"
    return "unclear" if quality == "unclear" and people != "for" else "take"


def rows_to_tell(extra: Estimate | None, accepted: float, *, num_rows: int) -> float | None:
    """About how many rows would tell, as intervals narrow by the root of their number.

    Without an interval the fewest that have one; None where it would be very many.
    """
    if extra is None:
        return float(FEWEST_ROWS)
    distance = abs(accepted - extra.value)
    # The side that faces the limit is the one that has to become narrower than the way to it.
    side = extra.value - extra.low if accepted < extra.value else extra.high - extra.value
    if not side:
        return float(max(num_rows, FEWEST_ROWS))
    needed = num_rows * (side / distance) ** 2 if distance else None
    if needed is None or needed > _WORTH_SAYING * num_rows:
        return None
    return max(needed, float(FEWEST_ROWS))


def is_cheaper(
    price: float | None, today: float | None, *, speed: float, least: float = NOTICEABLE_MEASURED
) -> bool:
    """Whether a candidate saves money, or time where not both prices are known.

    Args:
        price: Of so many words, the candidate's.
        today: The first model's.
        speed: How much faster the candidate is, as a fraction.
        least: What saving counts, as a fraction of the price or the time.
    """
    if price is None or today is None:
        # What prices by the hour would be: both ways of asking have one limit.
        price, today = 1 / (1 + speed), 1.0
    return price < (1 - least) * today
