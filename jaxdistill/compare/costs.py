"""What models cost, in tokens and in words: time, room and money."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from jaxdistill import evals
from jaxdistill.compare.decision_rules import MIN_MEASURED_SAVING, MIN_SAVING
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.options import CompareOptions
from jaxdistill.compare.scoring import ModelScores


def add_costs(
    metrics: ComparisonMetrics,
    costs: Mapping[str, evals.Cost],
    scores: Mapping[str, ModelScores],
    example_ids: Sequence[int],
    options: CompareOptions,
) -> None:
    """Note speed, size and prices, in tokens and in words, for tokenizers cut words differently."""
    first = options.baseline
    for name, cost in costs.items():
        reading = scores[name]
        num_tokens = sum(reading.sums_by_example[row]["scored_tokens"] for row in example_ids)
        words_per_token = (
            sum(len(reading.words_by_example[row].texts) for row in example_ids) / num_tokens
        )
        for quantity, value in asdict(cost).items():
            metrics.add(name, quantity, value)
        speed = metrics.add(name, "words_per_second", cost.tokens_per_second * words_per_token)
        price = options.prices.get(name)
        if price is None and options.machine_price is not None:
            price = options.machine_price / 3600 / cost.tokens_per_second * 1e6
        if price is not None:
            metrics.add(name, "cost_per_million_tokens", price)
            metrics.add(name, "cost_per_million_words", price / words_per_token)
        if name != first:
            today = metrics.get(first, "words_per_second")
            assert today is not None
            metrics.add(name, "relative_speed", speed.value / today.value - 1)
            _add_relative_price(metrics, name, first)
            are_given = first in options.prices and name in options.prices
            metrics.add(name, "least_saving", MIN_SAVING if are_given else MIN_MEASURED_SAVING)


def _add_relative_price(metrics: ComparisonMetrics, candidate: str, baseline: str) -> None:
    price = metrics.get(candidate, "cost_per_million_words")
    today = metrics.get(baseline, "cost_per_million_words")
    # Nothing can be said beside a price of 0; what is cheaper is told by the prices themselves.
    if price is not None and today is not None and today.value > 0:
        metrics.add(candidate, "relative_price", price.value / today.value - 1)
