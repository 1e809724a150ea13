"""Bootstrap intervals of metrics, over held-out rows and training seeds."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NUM_RESAMPLES = 2000

_BLOCK_ELEMENTS = 1_000_000
"""Resampled terms in memory at once: 8 MB for each of sums and weights."""


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval from `low` to `high`, at 95 % by default."""

    value: float
    low: float
    high: float


class RatioTerms(NamedTuple):
    """The terms of a ratio Σ numerators / Σ denominators, for each training seed and row."""

    numerators: Float[np.ndarray, "S R"]
    denominators: Float[np.ndarray, "S R"]


def ratio(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"], *, seed: int = 0
) -> Estimate:
    """Estimate Σ sums / Σ weights over rows, averaged over seeds, with a percentile interval.

    Rows are resampled with replacement, the same rows for every seed (Efron, "Bootstrap Methods",
    1979, https://doi.org/10.1214/aos/1176344552). Seeds are too few for that: resampling three
    would never exceed their lowest and highest. Instead the error of their mean is added to each
    resample: the standard error times a draw of Student's t (Student, "The Probable Error of a
    Mean", 1908, https://doi.org/10.1093/biomet/6.1.1). With one seed, the interval covers other
    rows but not other seeds. `seed` is that of the resampling.
    """
    return _percentile_interval(
        _resampled_ratios(sums, weights, seed), _ratio_by_seed(sums, weights), seed
    )


def mean(values: Float[np.ndarray, " R"], *, seed: int = 0) -> Estimate:
    """Estimate the mean over rows of one seed, each row with the same weight."""
    return ratio(values[None], np.ones((1, len(values))), seed=seed)


def difference(
    candidate: RatioTerms, baseline: RatioTerms, *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Estimate `ratio(*candidate) - ratio(*baseline)`, paired by seeds and rows, at a level."""
    resampled = _resampled_ratios(*candidate, seed) - _resampled_ratios(*baseline, seed)
    differences = _ratio_by_seed(*candidate) - _ratio_by_seed(*baseline)
    return _percentile_interval(resampled, differences, seed, level)


def _resampled_ratios(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"], seed: int
) -> Float[np.ndarray, " draws"]:
    """Return the mean over seeds of the ratio of each resample of rows."""
    random = np.random.default_rng(seed)
    num_rows = sums.shape[1]
    ratios = np.empty(NUM_RESAMPLES)
    block_size = max(1, _BLOCK_ELEMENTS // sums.size)
    for start in range(0, NUM_RESAMPLES, block_size):
        block = ratios[start : start + block_size]
        rows = random.integers(num_rows, size=(len(block), num_rows))
        block[:] = _ratio_by_seed(sums[:, rows], weights[:, rows]).mean(axis=0)
    return ratios


def _ratio_by_seed(
    sums: Float[np.ndarray, "S *draws R"], weights: Float[np.ndarray, "S *draws R"]
) -> Float[np.ndarray, "S *draws"]:
    return sums.sum(axis=-1) / weights.sum(axis=-1)


def _percentile_interval(
    resampled: Float[np.ndarray, " draws"],
    ratio_by_seed: Float[np.ndarray, " S"],
    seed: int,
    level: float = 0.95,
) -> Estimate:
    """Return the mean over seeds with the quantiles of resamples, widened by the seeds' error."""
    count = len(ratio_by_seed)
    if count > 1:
        error = ratio_by_seed.std(ddof=1) / math.sqrt(count)
        # Another random stream than that of the rows.
        random = np.random.default_rng([seed, count])
        resampled = resampled + error * random.standard_t(count - 1, size=len(resampled))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(ratio_by_seed.mean()), float(low), float(high))
