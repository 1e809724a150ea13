"""The numbers of a comparison: quality on shared rows, where it is lost, and what a model costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from jaxdistill import evals
from jaxdistill.compare.options import Options
from jaxdistill.compare.reading import Reading
from jaxdistill.compare.record import ALL, Record

_BITS_PER_NAT = 1 / np.log(2)
_OF_TOKENS = {
    "forward_kl": "kl_to_first",
    "top1_agreement": "top1_agreement",
    "top5_agreement": "top5_agreement",
}
_Ratio = tuple[Float[np.ndarray, "1 R"], Float[np.ndarray, "1 R"]]


@dataclass(frozen=True)
class Breakdown:
    """Where a candidate pays more than the first model.

    Attributes:
        bins: The labels of the words, by "frequency", "position" and "length".
        worst: The label, over all three, where it pays most.
    """

    bins: Mapping[str, Sequence[str]]
    worst: str


def measure_quality(
    record: Record, readings: Mapping[str, Reading], rows: Sequence[int], tolerance: float
) -> None:
    """Note how well each model predicts the shared rows, beside the first of them."""
    first, *_ = readings
    base = _bits(readings[first], rows)
    record.add(ALL, "rows", len(rows))
    record.add(ALL, "tolerance", tolerance)
    for name, reading in readings.items():
        bits = _bits(reading, rows)
        line = record.add(name, "bits_per_byte", evals.ratio(*bits))
        if name == first:
            record.add(name, "accepted_extra", tolerance * line.value)
            continue
        record.add(name, "extra_bits_per_byte", evals.difference(bits, base))
        if reading.is_alike:
            for column, quantity in _OF_TOKENS.items():
                found = _columns(reading, rows, column, "scored_tokens")
                record.add(name, quantity, evals.ratio(*found))


def measure_words(
    record: Record, readings: Mapping[str, Reading], rows: Sequence[int]
) -> dict[str, Breakdown]:
    """Note what words of each kind cost; says where each candidate pays most."""
    first, *candidates = readings
    words = [readings[first].words[row] for row in rows]
    table = evals.word_table([row.texts for row in words], [row.ends for row in words])
    scored = np.concatenate([_is_scored(list(readings.values()), row) for row in rows])
    nats = {
        name: np.concatenate([reading.nats[row] for row in rows])
        for name, reading in readings.items()
    }
    record.add(ALL, "words", int(scored.sum()))
    bins: dict[str, list[str]] = {}
    for one in evals.bins(table):
        members = one.members & scored
        if not members.any():
            continue
        bins.setdefault(one.breakdown, []).append(one.label)
        record.add(ALL, "words", int(members.sum()), bin=one.label)
        for name in readings:
            cost = evals.bits_per_byte(table, members, nats[name])
            record.add(name, "bits_per_byte", cost, bin=one.label)
        for name in candidates:
            more = evals.excess(table, members, nats[name], nats[first])
            record.add(name, "extra_bits_per_byte", more, bin=one.label)
    return {name: Breakdown(bins, _worst(record, name, bins)) for name in candidates}


def measure_costs(
    record: Record,
    costs: Mapping[str, evals.Cost],
    readings: Mapping[str, Reading],
    rows: Sequence[int],
    options: Options,
) -> None:
    """Note speed, size and prices, in tokens and in words, for tokenizers cut words differently."""
    first = options.first
    for name, cost in costs.items():
        reading = readings[name]
        num_tokens = sum(reading.sums[row]["scored_tokens"] for row in rows)
        words_per_token = sum(len(reading.words[row].texts) for row in rows) / num_tokens
        for quantity, value in asdict(cost).items():
            record.add(name, quantity, value)
        speed = record.add(name, "words_per_second", cost.tokens_per_second * words_per_token)
        price = options.prices.get(name)
        if price is None and options.machine_price is not None:
            price = options.machine_price / 3600 / cost.tokens_per_second * 1e6
        if price is not None:
            record.add(name, "cost_per_million_tokens", price)
            record.add(name, "cost_per_million_words", price / words_per_token)
        if name != first:
            today = record.get(first, "words_per_second")
            assert today is not None
            record.add(name, "relative_speed", speed.value / today.value - 1)
            _compare_price(record, name, first)


def _compare_price(record: Record, name: str, first: str) -> None:
    price = record.get(name, "cost_per_million_words")
    today = record.get(first, "cost_per_million_words")
    if price is not None and today is not None and today.value > 0:
        record.add(name, "relative_price", price.value / today.value - 1)


def _worst(record: Record, name: str, bins: Mapping[str, Sequence[str]]) -> str:
    def more(label: str) -> float:
        line = record.get(name, "extra_bits_per_byte", bin=label)
        assert line is not None
        return line.value

    return max((label for labels in bins.values() for label in labels), key=more)


def _is_scored(readings: Sequence[Reading], row: int) -> np.ndarray:
    """Which words of a row every model has scored from their first byte."""
    begins = np.append(0, readings[0].words[row].ends[:-1])
    return begins >= max(reading.words[row].first_byte for reading in readings)


def _bits(reading: Reading, rows: Sequence[int]) -> _Ratio:
    nats, num_bytes = _columns(reading, rows, "nll", "num_bytes")
    return nats * _BITS_PER_NAT, num_bytes


def _columns(reading: Reading, rows: Sequence[int], sums: str, weights: str) -> _Ratio:
    found = np.array([[reading.sums[row][sums], reading.sums[row][weights]] for row in rows]).T
    return found[:1], found[1:]
