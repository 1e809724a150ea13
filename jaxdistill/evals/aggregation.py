"""Aggregates of token metrics: means, calibration error, and sums by example."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdistill.evals.token_metrics import TokenMetrics

NUM_CALIBRATION_BINS = 15

BITS_PER_NAT = 1 / math.log(2)


class RatioMetric(NamedTuple):
    """The metric `factor` · Σ column / Σ weight, over any set of examples."""

    column: str
    weight: str
    factor: float = 1.0


_TOKEN_MEANS = (
    "nll",
    "accuracy",
    "forward_kl",
    "acceptance",
    "top1_agreement",
    "top5_agreement",
)

RATIO_METRICS = {
    **{name: RatioMetric(name, "scored_tokens") for name in _TOKEN_MEANS},
    "bits_per_byte": RatioMetric("nll", "num_bytes", BITS_PER_NAT),
    "digit_accuracy": RatioMetric("digit_accuracy", "digits"),
}
"""Metrics by name. Perplexity and calibration error are not ratios of sums."""


def mean_metrics(token_metrics: TokenMetrics, *, num_bytes: int) -> dict[str, float]:
    """Compute means over all scored tokens of `num_bytes` UTF-8 bytes, 0 if unknown.

    Returns:
        The mean of each metric (`digit_accuracy` over digits only), `calibration_error`,
        `perplexity` and `bits_per_byte`, the last two also of the teacher with the prefix
        `teacher_`; and `scored_tokens`.
    """
    means = {name: float(np.mean(v, dtype=np.float64)) for name, v in token_metrics.values.items()}
    accuracy, confidence = token_metrics.values["accuracy"], token_metrics.values["confidence"]
    result = {**means, "calibration_error": calibration_error(confidence, accuracy)}
    del result["confidence"]
    if (digits := result.pop("digits", None)) is not None:
        correct = result.pop("digit_accuracy")
        result |= {"digit_accuracy": correct / digits} if digits else {}
    for prefix in ("", "teacher_"):
        if (nll := means.get(f"{prefix}nll")) is not None:
            result[f"{prefix}perplexity"] = _perplexity(nll)
            if num_bytes:
                result[f"{prefix}bits_per_byte"] = (
                    BITS_PER_NAT * nll * len(token_metrics) / num_bytes
                )
    return {**result, "scored_tokens": float(len(token_metrics))}


def calibration_error(
    confidence: Float[np.ndarray, " N"],
    accuracy: Float[np.ndarray, " N"],
) -> float:
    """Compute the expected calibration error: mean |confidence - accuracy| of equal-width bins.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599.
    """
    bins = np.minimum((confidence * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - accuracy)
    return float(np.abs(gaps).sum() / len(confidence))


def sum_by_example(token_metrics: TokenMetrics) -> dict[str, np.ndarray]:
    """Sum each metric by example; `example_ids` is sorted, `scored_tokens` counts tokens."""
    example_ids, indices = np.unique(token_metrics.example_ids, return_inverse=True)
    sums = {
        name: np.bincount(indices, weights=value) for name, value in token_metrics.values.items()
    }
    return {"example_ids": example_ids, "scored_tokens": np.bincount(indices), **sums}


def position_records(token_metrics: TokenMetrics, width: int) -> list[dict[str, Any]]:
    """Compute means of `width` positions each; `position` is the first, `tokens` their number.

    Positions count from the start of a row, its prompt included. Without a teacher there is `nll`
    only, with one also `forward_kl`, `acceptance` and `top1_agreement`.
    """
    bins, indices = np.unique(token_metrics.positions // width, return_inverse=True)
    counts = np.bincount(indices)
    columns = {"position": bins * width, "tokens": counts} | {
        name: np.bincount(indices, weights=token_metrics.values[name]) / counts
        for name in ("nll", "forward_kl", "acceptance", "top1_agreement")
        if name in token_metrics.values
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def mean_by_position(token_metrics: TokenMetrics, width: int) -> dict[str, float]:
    """Return `position_records` by name and first position: `nll@0`, `nll@128`, …."""
    records = position_records(token_metrics, width)
    names = [n for n in records[0] if n not in ("position", "tokens")] if records else []
    return {f"{name}@{one['position']}": one[name] for name in names for one in records}


def _perplexity(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
