"""How sure a number is: intervals for other held-out rows and other seeds."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number and the interval around it, of 95 % unless another level was asked for.

    Attributes:
        value: The number.
        low: Where the interval begins.
        high: Where it ends.
    """

    value: float
    low: float
    high: float


def ratio(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"], *, seed: int = 0
) -> Estimate:
    """Σ sums / Σ weights over rows, averaged over seeds, and its percentile interval.

    Rows are drawn with replacement, the same for every seed (Efron, "Bootstrap Methods", 1979,
    https://doi.org/10.1214/aos/1176344552). Seeds are too few for that: of three, drawing again
    would never leave the lowest and the highest. To each draw is added what their mean may be off
    by, the standard error times a draw of Student's t (Student, "The Probable Error of a Mean",
    1908, https://doi.org/10.1093/biomet/6.1.1). One seed says nothing of others: its interval is
    of rows alone.

    Args:
        sums: Of each row, for each training seed.
        weights: What the sums are divided by, such as scored tokens.
        seed: Of the draws.
    """
    return _percentile_interval(
        _resampled_ratios(sums, weights, seed), _ratio_by_seed(sums, weights), seed
    )


def mean(values: Float[np.ndarray, " R"], *, seed: int = 0) -> Estimate:
    """`ratio` of one number a row, each of which counts as much as any other."""
    return ratio(values[None], np.ones((1, len(values))), seed=seed)


def difference(
    candidate: tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R"]],
    baseline: tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R"]],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`ratio(*one) - ratio(*other)`, seed by seed and with the same rows drawn: paired.

    Args:
        one: Sums and weights, as for `ratio`.
        other: The same of what is compared with it.
        seed: Of the draws.
        level: How often the interval is to hold; 95 % wherever nothing else is said.
    """
    drawn = _resampled_ratios(*candidate, seed) - _resampled_ratios(*baseline, seed)
    return _percentile_interval(
        drawn, _ratio_by_seed(*candidate) - _ratio_by_seed(*baseline), seed, level
    )


def _resampled_ratios(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"], seed: int
) -> Float[np.ndarray, " draws"]:
    """The mean over seeds, with rows drawn again."""
    random = np.random.default_rng(seed)
    num_rows = sums.shape[1]
    drawn = np.empty(NUM_RESAMPLES)
    for draw in range(NUM_RESAMPLES):
        rows = random.integers(num_rows, size=num_rows)
        drawn[draw] = _ratio_by_seed(sums[:, rows], weights[:, rows]).mean()
    return drawn


def _ratio_by_seed(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"]
) -> Float[np.ndarray, " S"]:
    return sums.sum(axis=1) / weights.sum(axis=1)


def _percentile_interval(
    resampled: Float[np.ndarray, " draws"],
    ratio_by_seed: Float[np.ndarray, " S"],
    seed: int,
    level: float = 0.95,
) -> Estimate:
    """The mean over seeds, and the interval of what was drawn, as wide as the seeds make it."""
    count = len(ratio_by_seed)
    if count > 1:
        error = ratio_by_seed.std(ddof=1) / math.sqrt(count)
        # Another stream than that of the rows.
        random = np.random.default_rng([seed, count])
        resampled = resampled + error * random.standard_t(count - 1, size=len(resampled))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(ratio_by_seed.mean()), float(low), float(high))
