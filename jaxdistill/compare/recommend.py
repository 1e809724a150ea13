"""What to do, by plain rules: take a candidate, keep the first model, or say that nobody can tell.

The rules are pure functions of estimates; what they say names the numbers that decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxdistill.compare.record import ALL, Line, Number, Record, Sentence
from jaxdistill.evals import Estimate

FEWEST_ROWS = 20
"""An interval from fewer rows than these says little of the next one."""

NOTICEABLE = 0.05
"""What is cheaper, or faster, by less than this fraction is neither."""

_WORTH_SAYING = 100
"""More than so many times the rows there are is only said to be many more."""

Quality = Literal["within", "beyond", "unclear"]
People = Literal["for", "against", "silent"]
Verdict = Literal["take", "keep", "unclear"]


@dataclass(frozen=True)
class Advice:
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
        model: The one to take, or the one to keep; nothing where it is unclear.
        advice: What is said of each candidate.
    """

    verdict: Verdict
    model: str
    advice: tuple[Advice, ...]


def quality(extra: Estimate, accepted: float, *, num_rows: int) -> Quality:
    """Whether what a candidate pays more, in bits per byte, is accepted; `unclear` is neither."""
    if num_rows < FEWEST_ROWS or extra.low <= accepted < extra.high:
        return "unclear"
    return "within" if extra.high <= accepted else "beyond"


def people(preferred: Estimate | None) -> People:
    """Whether people like a candidate's answers better than the first model's, or worse."""
    if preferred is None or preferred.low <= 0.5 <= preferred.high:
        return "silent"
    return "for" if preferred.low > 0.5 else "against"


def verdict(quality: Quality, people: People, *, is_cheaper: bool) -> Verdict:
    """What to do about one candidate.

    People who judged it worse are heard before any number; people who judged it better decide
    where the numbers do not, but do not outvote them.
    """
    if people == "against":
        return "keep"
    if quality == "beyond":
        return "unclear" if people == "for" else "keep"
    if not is_cheaper:
        return "keep"
    return "unclear" if quality == "unclear" and people != "for" else "take"


def rows_to_tell(extra: Estimate, accepted: float, *, num_rows: int) -> float | None:
    """About how many rows would tell, as intervals narrow by the root of their number.

    None where it would be very many.
    """
    distance = abs(accepted - extra.value)
    needed = num_rows * ((extra.high - extra.low) / 2) ** 2 / distance**2 if distance else None
    if needed is None or needed > _WORTH_SAYING * num_rows:
        return None
    return max(needed, float(FEWEST_ROWS))


def recommend(record: Record, first: str, candidates: Sequence[str]) -> Recommendation:
    """What the record says about each candidate, and about all of them together."""
    advice = tuple(_advise(record, first, name) for name in candidates)
    taken = [one.candidate for one in advice if one.verdict == "take"]
    if taken:
        return Recommendation("take", min(taken, key=lambda name: _rank(record, name)), advice)
    if any(one.verdict == "unclear" for one in advice):
        return Recommendation("unclear", "", advice)
    return Recommendation("keep", first, advice)


def headline(recommendation: Recommendation, record: Record) -> Sentence:
    """The recommendation in a few words."""
    if recommendation.verdict == "unclear":
        return ("This cannot be told from these ", record.said(ALL, "rows"), " rows.")
    start = "Take" if recommendation.verdict == "take" else "Keep"
    return (f"{start} {recommendation.model}.",)


def _advise(record: Record, first: str, name: str) -> Advice:
    extra = _estimate(record, name, "extra_bits_per_byte")
    accepted, rows = record.get(first, "accepted_extra"), record.get(ALL, "rows")
    assert extra is not None
    assert accepted is not None
    assert rows is not None
    found = quality(extra, accepted.value, num_rows=int(rows.value))
    heard = people(_estimate(record, name, "preferred"))
    is_cheaper, savings = _savings(record, first, name)
    reasons = [_about_quality(record, first, name, found)]
    if found == "unclear":
        reasons.append(_about_rows(record, name, extra, accepted.value, int(rows.value)))
    reasons += savings
    if record.get(name, "preferred") is not None:
        reasons.append(_about_people(record, first, name, heard))
    return Advice(name, verdict(found, heard, is_cheaper=is_cheaper), tuple(reasons))


def _about_quality(record: Record, first: str, name: str, found: Quality) -> Sentence:
    judged = {
        "within": "which is accepted",
        "beyond": "which is too much",
        "unclear": "which may or may not be accepted",
    }[found]
    return (
        f"Quality: {name} needs ",
        record.said(name, "extra_bits_per_byte"),
        f" bits per byte beside {first} ",
        *record.interval(name, "extra_bits_per_byte"),
        f", {judged}: the limit is ",
        record.said(first, "accepted_extra"),
        ", ",
        record.said(ALL, "tolerance"),
        f" of what {first} needs.",
    )


def _about_rows(
    record: Record, name: str, extra: Estimate, accepted: float, num_rows: int
) -> Sentence:
    rows = record.said(ALL, "rows")
    needed = rows_to_tell(extra, accepted, num_rows=num_rows)
    if needed is None:
        return ("Rows: so close to the limit, far more than ", rows, " would be needed to tell.")
    record.add(name, "rows_to_tell", needed)
    more = record.said(name, "rows_to_tell")
    return ("Rows: there are ", rows, ". More would tell: about ", more, " of their kind.")


def _savings(record: Record, first: str, name: str) -> tuple[bool, list[Sentence]]:
    """Whether a candidate saves money, or time where no price is known, and both in words."""
    price, speed = record.get(name, "relative_price"), record.get(name, "relative_speed")
    assert speed is not None
    is_cheaper = speed.value > NOTICEABLE if price is None else price.value < -NOTICEABLE
    decides = f", {'a' if is_cheaper else 'no'} saving worth a change."
    found: list[Sentence] = []
    if price is not None:
        start = _beside(record, first, name, "Price: a million words cost ", price)
        found.append((*start, decides))
    start = _beside(record, first, name, "Speed: words per second are ", speed)
    return is_cheaper, [*found, (*start, "." if found else decides)]


def _beside(record: Record, first: str, name: str, about: str, relative: Line) -> Sentence:
    quantity = "cost_per_million_words" if about.startswith("Price") else "words_per_second"
    difference = Number(relative, record.quantity(relative.quantity).write(relative.value))
    return (
        about,
        record.said(name, quantity),
        f" with {name} and ",
        record.said(first, quantity),
        f" with {first} (",
        difference,
        ")",
    )


def _about_people(record: Record, first: str, name: str, heard: People) -> Sentence:
    said = {
        "for": f"they prefer {name}",
        "against": f"they prefer {first}",
        "silent": "that does not decide",
    }[heard]
    return (
        f"People: of {name}'s answers they found ",
        record.said(name, "wins"),
        " better, ",
        record.said(name, "ties"),
        " as good and ",
        record.said(name, "losses"),
        f" worse than {first}'s, so that its share is ",
        record.said(name, "preferred"),
        " ",
        *record.interval(name, "preferred"),
        f": {said}.",
    )


def _rank(record: Record, name: str) -> tuple[float, float]:
    price = record.get(name, "cost_per_million_words")
    speed, extra = record.get(name, "relative_speed"), record.get(name, "extra_bits_per_byte")
    assert speed is not None
    assert extra is not None
    return (-speed.value if price is None else price.value), extra.value


def _estimate(record: Record, name: str, quantity: str) -> Estimate | None:
    line = record.get(name, quantity)
    if line is None or line.low is None or line.high is None:
        return None
    return Estimate(line.value, line.low, line.high)
