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
        rows = scores[name].values()
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
    baseline = metrics.baseline
    baseline_speed = metrics.value(baseline, "words_per_second")
    baseline_price = metrics.get(baseline, "cost_per_million_words")
    for name in metrics.candidates:
        speed = metrics.value(name, "words_per_second")
        metrics.add(name, "relative_speed", speed / baseline_speed - 1)
        price = metrics.get(name, "cost_per_million_words")
        # Without a relative price where the first model is free.
        if price is not None and baseline_price is not None and baseline_price.value > 0:
            metrics.add(name, "relative_price", price.value / baseline_price.value - 1)
        are_given = {name, baseline} <= options.prices.keys()
        metrics.add(name, "least_saving", MIN_SAVING if are_given else MIN_MEASURED_SAVING)
