"""Arithmetic on scored places: means, calibration, and sums by row."""

import math

import numpy as np
from jaxtyping import Float

from jaxdistill.evals.token_metrics import TokenMetrics

NUM_CALIBRATION_BINS = 15

BITS_PER_NAT = 1 / math.log(2)

RATIO_METRICS = {
    # what can be had for any set of rows: the sums over rows, what they are divided by, a factor
    **{
        name: (name, "scored_tokens", 1.0)
        for name in ("nll", "accuracy", "forward_kl", "top1_agreement", "top5_agreement")
    },
    "bits_per_byte": ("nll", "num_bytes", BITS_PER_NAT),
    "digit_accuracy": ("digit_accuracy", "digits", 1.0),
}
"""Perplexity and calibration are none of these: they are not a sum divided by a weight."""


def mean_metrics(token_metrics: TokenMetrics, *, num_bytes: int) -> dict[str, float]:
    """Means over all places.

    Args:
        places: What was measured.
        num_bytes: How long the scored text is in UTF-8 (the sum of `Example.num_bytes`).

    Returns:
        The mean of each value (`digit_accuracy` over the digits alone), `perplexity`,
        `bits_per_byte` and `calibration_error`; with a teacher `teacher_perplexity` and
        `teacher_bits_per_byte`. Last, `scored_tokens`.
    """
    means = {name: float(np.mean(v, dtype=np.float64)) for name, v in token_metrics.values.items()}
    accuracy, confidence = token_metrics.values["accuracy"], token_metrics.values["confidence"]
    result = {**means, "calibration_error": calibration_error(confidence, accuracy)}
    del result["confidence"]
    if (digits := result.pop("digits", None)) is not None:
        guessed = result.pop("digit_accuracy")
        result |= {"digit_accuracy": guessed / digits} if digits else {}
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
    *,
    num_bins: int = NUM_CALIBRATION_BINS,
) -> float:
    """The expected calibration error: |confidence - accuracy|, by bins of equal width.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599.
    """
    bin_of = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - accuracy, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def sum_by_example(token_metrics: TokenMetrics) -> dict[str, np.ndarray]:
    """The sum of each value over each row, with `example_ids` and `scored_tokens`, in row order."""
    example_ids, row_of = np.unique(token_metrics.example_ids, return_inverse=True)
    sums = {
        name: np.bincount(row_of, weights=value) for name, value in token_metrics.values.items()
    }
    return {"example_ids": example_ids, "scored_tokens": np.bincount(row_of), **sums}


def _perplexity(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
