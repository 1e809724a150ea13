"""What to do, by plain rules: take a candidate, keep the first model, or say that nobody can tell.

What is said names the numbers that decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxdistill.compare.record import ALL, Record, Sentence, counted
from jaxdistill.compare.rules import (
    FEWEST_ROWS,
    People,
    Quality,
    Verdict,
    is_cheaper,
    people,
    quality,
    rows_to_tell,
    together,
    verdict,
)
from jaxdistill.evals import Estimate


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
        model: The one to take, or the one to keep; nothing where it is neither.
        advice: What is said of each candidate.
    """

    verdict: Verdict
    model: str
    advice: tuple[Advice, ...]


@dataclass(frozen=True)
class Check:
    """A measure of quality that must be within its limit.

    Attributes:
        quantity: By how much a candidate is worse, as the record names it.
        accepted: The limit, as the record names it.
        quality: Whether it is within it.
        rows_to_tell: How many rows would tell; None where very many.
    """

    quantity: str
    accepted: str
    quality: Quality
    rows_to_tell: float | None


def checks(record: Record, first: str, name: str) -> list[Check]:
    """What is known of a candidate's quality: bits per byte and, where there is one, a task."""
    rows, left_out = _value(record, ALL, "rows"), _value(record, ALL, "rows_left_out")
    assert rows is not None
    found = []
    for quantity, accepted, num_rows in (
        ("extra_bits_per_byte", "accepted_extra", int(rows)),
        # A task asks every row.
        ("task_loss", "accepted_task_loss", int(rows + (left_out or 0))),
    ):
        limit = _value(record, first, accepted)
        if limit is not None and record.get(name, quantity) is not None:
            extra = _estimate(record, name, quantity)
            told = quality(extra, limit)
            needed = rows_to_tell(extra, limit, num_rows=num_rows)
            found.append(Check(quantity, accepted, told, needed))
    return found


def recommend(record: Record, first: str, candidates: Sequence[str]) -> Recommendation:
    """What the record says about each candidate, and about all of them together."""
    advice = tuple(_advise(record, first, name) for name in candidates)
    taken = [one.candidate for one in advice if one.verdict == "take"]
    if taken:
        return Recommendation("take", min(taken, key=lambda name: _rank(record, name)), advice)
    for undecided in ("unclear", "disputed"):
        if any(one.verdict == undecided for one in advice):
            return Recommendation(undecided, "", advice)
    return Recommendation("keep", first, advice)


def headline(recommendation: Recommendation, record: Record) -> Sentence:
    """The recommendation in a few words."""
    if recommendation.verdict == "unclear":
        return ("This cannot be told from ", *counted(record.said(ALL, "rows"), "row"), ".")
    if recommendation.verdict == "disputed":
        return ("People and numbers disagree.",)
    start = "Take" if recommendation.verdict == "take" else "Keep"
    return (f"{start} {recommendation.model}.",)


def _advise(record: Record, first: str, name: str) -> Advice:
    checked = checks(record, first, name)
    found = together(one.quality for one in checked)
    heard = people(_estimate(record, name, "preferred"))
    cheaper, savings = _savings(record, first, name)
    about = (_about_quality, _about_task)
    reasons = [say(record, first, name, one) for say, one in zip(about, checked, strict=False)]
    if found in ("unclear", "few"):
        reasons.append(_about_rows(record, name, found))
    reasons += savings
    if record.get(name, "preferred") is not None:
        reasons.append(_about_people(record, first, name, heard))
    return Advice(name, verdict(found, heard, is_cheaper=cheaper), tuple(reasons))


def _about_quality(record: Record, first: str, name: str, check: Check) -> Sentence:
    return (
        f"Quality: {name} needs ",
        record.said(name, check.quantity),
        f" bits per byte beside {first}",
        *_judged(record, first, name, check),
        f" of what {first} needs.",
    )


def _about_task(record: Record, first: str, name: str, check: Check) -> Sentence:
    task = next(line.quantity for line in record if line.quantity.startswith("task/"))
    return (
        f"{record.quantity(task).label} is ",
        record.said(name, task),
        f" with {name} and ",
        record.said(first, task),
        f" with {first}, worse by ",
        record.said(name, check.quantity),
        *_judged(record, first, name, check),
        f" of what {first} has.",
    )


def _judged(record: Record, first: str, name: str, check: Check) -> Sentence:
    judged = {
        "within": "which is accepted:",
        "beyond": "which is too much:",
        "unclear": "which may or may not be accepted:",
        "few": f"but fewer than {FEWEST_ROWS} rows tell nothing;",
    }[check.quality]
    return (
        *record.interval(name, check.quantity),
        f", {judged} the limit is ",
        record.said(first, check.accepted),
        ", ",
        record.said(ALL, "tolerance"),
    )


def _about_rows(record: Record, name: str, found: Quality) -> Sentence:
    rows = record.said(ALL, "rows")
    if record.get(name, "rows_to_tell") is None:
        return ("Rows: so close to the limit, far more than ", rows, " would be needed to tell.")
    more = record.said(name, "rows_to_tell")
    if found == "few":
        return ("Rows: ", rows, " here; at least ", more, " are needed to tell.")
    return ("Rows: ", rows, " here; about ", more, " of their kind would tell.")


def _savings(record: Record, first: str, name: str) -> tuple[bool, list[Sentence]]:
    """Whether a candidate saves money, or time where no price is known, and both in words."""
    price, today = (_value(record, one, "cost_per_million_words") for one in (name, first))
    speed = _value(record, name, "relative_speed")
    least = _value(record, name, "least_saving")
    assert speed is not None
    assert least is not None
    saves = is_cheaper(price, today, speed=speed, least=least)
    is_priced = price is not None and today is not None
    decides: Sentence = (
        f", {'a' if saves else 'no'} saving worth a change (more than ",
        record.said(name, "least_saving"),
        f" of the {'price' if is_priced else 'time'}).",
    )
    found: list[Sentence] = []
    if is_priced:
        cost = ("Price: a million words cost ", "cost_per_million_words", "relative_price")
        found.append((*_beside(record, first, name, *cost), *decides))
    pace = ("Speed: words per second are ", "words_per_second", "relative_speed")
    start = _beside(record, first, name, *pace)
    return saves, [*found, (*start, *((".",) if found else decides))]


def _beside(
    record: Record, first: str, name: str, about: str, quantity: str, relative: str
) -> Sentence:
    said: Sentence = (
        about,
        record.said(name, quantity),
        f" with {name} and ",
        record.said(first, quantity),
        f" with {first}",
    )
    if record.get(name, relative) is None:
        return said
    return (*said, " (", record.said(name, relative), ")")


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
        *record.interval(name, "preferred"),
        f": {said}.",
    )


def _rank(record: Record, name: str) -> tuple[bool, float, float]:
    """Priced ones first, the cheapest before all; the others by speed."""
    price = _value(record, name, "cost_per_million_words")
    speed, extra = (_value(record, name, one) for one in ("relative_speed", "extra_bits_per_byte"))
    assert speed is not None
    assert extra is not None
    return price is None, -speed if price is None else price, extra


def _value(record: Record, name: str, quantity: str) -> float | None:
    line = record.get(name, quantity)
    return None if line is None else line.value


def _estimate(record: Record, name: str, quantity: str) -> Estimate | None:
    line = record.get(name, quantity)
    if line is None or line.low is None or line.high is None:
        return None
    return Estimate(line.value, line.low, line.high)
