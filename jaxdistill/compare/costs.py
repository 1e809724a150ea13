"""Speed, memory, size and prices of the compared models."""

from collections.abc import Mapping
from dataclasses import asdict

from jaxdistill import evals
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.options import CompareOptions
from jaxdistill.compare.scoring import ModelScores

MIN_SAVING = 0.05
"""Smallest saving that counts between two given prices, as a fraction of the price."""

MIN_MEASURED_SAVING = 0.25
"""Smallest saving that counts where a measured speed decides: speed varies between runs."""


def add_costs(
    metrics: ComparisonMetrics,
    costs: Mapping[str, evals.Cost],
    scores: Mapping[str, ModelScores],
    options: CompareOptions,
) -> None:
    """Record speed, size and prices per token, and per word to compare different tokenizers."""
    for name, cost in costs.items():
        rows = scores[name].rows.values()
        num_tokens = sum(row.token_sums["scored_tokens"] for row in rows)
        words_per_token = sum(len(row.words.texts) for row in rows) / num_tokens
        for quantity, value in asdict(cost).items():
            metrics.add(name, quantity, value)
        metrics.add(name, "words_per_second", cost.tokens_per_second * words_per_token)
        price = options.prices.get(name)
        if price is None and options.machine_price is not None:
            price = options.machine_price / 3600 / cost.tokens_per_second * 1e6
        if price is not None:
            metrics.add(name, "cost_per_million_tokens", price)
            metrics.add(name, "cost_per_million_words", price / words_per_token)
    for name in options.candidates:
        _add_relative_costs(metrics, name, options)


def _add_relative_costs(
    metrics: ComparisonMetrics, candidate: str, options: CompareOptions
) -> None:
    baseline = options.baseline
    speeds = (metrics.value(name, "words_per_second") for name in (candidate, baseline))
    candidate_speed, baseline_speed = speeds
    metrics.add(candidate, "relative_speed", candidate_speed / baseline_speed - 1)
    prices = [metrics.get(name, "cost_per_million_words") for name in (candidate, baseline)]
    # Without a relative price where the first model is free.
    if prices[0] is not None and prices[1] is not None and prices[1].value > 0:
        metrics.add(candidate, "relative_price", prices[0].value / prices[1].value - 1)
    are_given = {candidate, baseline} <= options.prices.keys()
    metrics.add(candidate, "least_saving", MIN_SAVING if are_given else MIN_MEASURED_SAVING)
