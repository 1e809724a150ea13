"""What models cost, in tokens and in words: time, room and money."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from jaxdistill import evals
from jaxdistill.compare.options import Options
from jaxdistill.compare.reading import Reading
from jaxdistill.compare.record import Record
from jaxdistill.compare.rules import NOTICEABLE, NOTICEABLE_MEASURED


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
            are_given = first in options.prices and name in options.prices
            record.add(name, "least_saving", NOTICEABLE if are_given else NOTICEABLE_MEASURED)


def _compare_price(record: Record, name: str, first: str) -> None:
    price = record.get(name, "cost_per_million_words")
    today = record.get(first, "cost_per_million_words")
    # Nothing can be said beside a price of 0; what is cheaper is told by the prices themselves.
    if price is not None and today is not None and today.value > 0:
        record.add(name, "relative_price", price.value / today.value - 1)
