"""The quality of models on shared rows, and where it is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxdistill import evals
from jaxdistill.compare.reading import Reading, Shared
from jaxdistill.compare.recommend import checks
from jaxdistill.compare.record import ALL, Record
from jaxdistill.compare.rules import FEWEST_ROWS, together
from jaxdistill.errors import UserError

_OF_TOKENS = {
    "forward_kl": "kl_to_first",
    "top1_agreement": "top1_agreement",
    "top5_agreement": "top5_agreement",
}


@dataclass(frozen=True)
class Scored:
    """The words of the shared rows.

    Attributes:
        table: All of them.
        members: Those that are the same bytes to every model, and scored from the first of them.
        nats: What each model pays for each, the first model first.
    """

    table: evals.WordTable
    members: Bool[np.ndarray, " W"]
    nats: Mapping[str, Float[np.ndarray, " W"]]


@dataclass(frozen=True)
class Breakdown:
    """Where candidates pay more than the first model.

    Attributes:
        bins: The labels of the words, by "frequency", "position" and "length".
        worst: For each candidate the label, over all three, where it pays most; None where it
            pays clearly more nowhere.
    """

    bins: Mapping[str, Sequence[str]]
    worst: Mapping[str, str | None]


def scored_words(readings: Mapping[str, Reading], rows: Sequence[int]) -> Scored:
    """The words of the shared rows, and what each model pays for them.

    Raises:
        UserError: where no word can be compared, or a model pays what is no number.
    """
    words = [next(iter(readings.values())).words[row] for row in rows]
    members = np.concatenate([_is_scored(list(readings.values()), row) for row in rows])
    if not members.any():
        raise UserError(
            "compare: no word of these rows is the same bytes to every model and predicted whole. "
            "Give longer rows, or rows with prompts."
        )
    nats = {
        name: np.concatenate([reading.nats[row] for row in rows])
        for name, reading in readings.items()
    }
    if wrong := [name for name, paid in nats.items() if not np.isfinite(paid[members]).all()]:
        raise UserError(
            *(
                f"compare: what {name} pays for a word is not finite. See whether its weights are."
                for name in wrong
            )
        )
    table = evals.word_table([row.texts for row in words], [row.ends for row in words])
    return Scored(table, members, nats)


def measure_left_out(record: Record, found: Shared, *, num_rows: int, num_blank: int) -> None:
    """Note how many rows are not compared, and why: blank ones are none of the `num_rows`."""
    num_read = num_rows + num_blank
    record.add(ALL, "rows_read", num_read)
    record.add(ALL, "rows_left_out", num_read - len(found.rows))
    reasons = {(name, "rows_too_long"): count for name, count in found.too_long.items()}
    reasons |= {(ALL, "rows_in_other_words"): found.in_other_words, (ALL, "blank_rows"): num_blank}
    for (name, quantity), count in reasons.items():
        if count:
            record.add(name, quantity, count)


def measure_quality(
    record: Record,
    scored: Scored,
    readings: Mapping[str, Reading],
    rows: Sequence[int],
    tolerance: float,
) -> None:
    """Note how well each model predicts the shared words, beside the first of them.

    The marks that end answers are left aside: not every tokenizer has one, and answers that were
    broken off have none.
    """
    first, *candidates = readings
    record.add(ALL, "rows", len(rows))
    record.add(ALL, "tolerance", tolerance)
    _measure_words(record, scored, scored.members)
    base = record.get(first, "bits_per_byte")
    assert base is not None
    record.add(first, "accepted_extra", tolerance * base.value)
    for name in candidates:
        if readings[name].is_alike:
            for column, quantity in _OF_TOKENS.items():
                mean = _mean(readings[name], rows, column)
                record.add(name, quantity, _as_sure(mean, len(rows)))


def measure_task(
    record: Record, scores: Mapping[str, Mapping[str, Float[np.ndarray, " R"]]], tolerance: float
) -> None:
    """Note each metric of a task, and by how much the first of them is worse, rows paired.

    Args:
        record: Takes the numbers.
        scores: Of each model, the first one first: each metric of every row.
        tolerance: As for `measure_quality`: a fraction of the first model's score.
    """
    for name, metrics in scores.items():
        for metric, values in metrics.items():
            record.add(name, f"task/{metric}", _as_sure(evals.mean(values), len(values)))
    first, *candidates = scores
    metric = next(iter(scores[first]))
    base = record.get(first, f"task/{metric}")
    assert base is not None
    record.add(first, "accepted_task_loss", tolerance * base.value)
    sign = 1 if metric in evals.LESS_IS_BETTER else -1
    for name in candidates:
        worse = sign * (scores[name][metric] - scores[first][metric])
        record.add(name, "task_loss", _as_sure(evals.mean(worse), len(worse)))


def measure_rows_to_tell(record: Record, first: str, candidates: Sequence[str]) -> None:
    """Note how many rows would tell of each candidate that these do not tell of."""
    for name in candidates:
        checked = checks(record, first, name)
        if together(one.quality for one in checked) in ("unclear", "few"):
            open_ones = [one for one in checked if one.quality in ("unclear", "few")]
            needed = [one.rows_to_tell for one in open_ones]
            known = [one for one in needed if one is not None]
            if len(known) == len(needed):
                record.add(name, "rows_to_tell", max(known))


def measure_bins(record: Record, scored: Scored) -> Breakdown:
    """Note what words of each kind cost; says where each candidate pays most.

    A bin of few rows has no interval, and is nobody's worst.
    """
    bins: dict[str, list[str]] = {}
    many: dict[str, Bool[np.ndarray, " W"]] = {}
    for one in evals.bins(scored.table):
        members = one.members & scored.members
        if members.any():
            bins.setdefault(one.breakdown, []).append(one.label)
            _measure_words(record, scored, members, one.label)
            if _num_rows(scored, members) >= FEWEST_ROWS:
                many[one.label] = members
    _, *candidates = scored.nats
    return Breakdown(bins, {name: _worst(record, scored, name, many) for name in candidates})


def _as_sure(found: evals.Estimate, num_rows: int) -> evals.Estimate | float:
    """With its interval where it is of rows enough to have one."""
    return found if num_rows >= FEWEST_ROWS else found.value


def _num_rows(scored: Scored, members: Bool[np.ndarray, " W"]) -> int:
    return len(np.unique(scored.table.rows[members]))


def _measure_words(
    record: Record, scored: Scored, members: Bool[np.ndarray, " W"], label: str = ""
) -> None:
    first, *candidates = scored.nats
    num_rows = _num_rows(scored, members)
    record.add(ALL, "words", int(members.sum()), bin=label)
    for name, nats in scored.nats.items():
        cost = evals.bits_per_byte(scored.table, members, nats)
        record.add(name, "bits_per_byte", _as_sure(cost, num_rows), bin=label)
    for name in candidates:
        more = evals.excess(scored.table, members, scored.nats[name], scored.nats[first])
        record.add(name, "extra_bits_per_byte", _as_sure(more, num_rows), bin=label)


def _worst(
    record: Record, scored: Scored, name: str, many: Mapping[str, Bool[np.ndarray, " W"]]
) -> str | None:
    """Where a candidate clearly pays more, and most of all.

    Of many intervals of 95 % some lie above 0 by chance: those here are wider, so that all of
    them together hold in 95 % (Bonferroni's correction).
    """
    first = next(iter(scored.nats))
    found: dict[str, float] = {}
    for label, members in many.items():
        line = record.get(name, "extra_bits_per_byte", bin=label)
        if line is None or line.low is None or line.low <= 0:
            continue
        nats, level = (scored.nats[name], scored.nats[first]), 1 - 0.05 / len(many)
        if evals.excess(scored.table, members, *nats, level=level).low > 0:
            found[label] = line.value
    return max(found, key=lambda label: found[label], default=None)


def _is_scored(readings: Sequence[Reading], row: int) -> Bool[np.ndarray, " _"]:
    """Which words of a row are the same bytes to every model, which has scored all of them.

    A token that lies across the seam of prompt and answer brings its space to the first word.
    """
    words = [reading.words[row] for reading in readings]
    sizes = np.stack([np.diff(one.ends, prepend=0) for one in words])
    is_whole = [one.ends - size >= one.first_byte for one, size in zip(words, sizes, strict=True)]
    return (sizes == sizes[0]).all(axis=0) & np.all(is_whole, axis=0)


def _mean(reading: Reading, rows: Sequence[int], name: str) -> evals.Estimate:
    """The mean over tokens of what was summed by row."""
    sums, counts = np.array(
        [[reading.sums[row][name], reading.sums[row]["scored_tokens"]] for row in rows]
    ).T
    return evals.ratio(sums[None], counts[None])
