"""How sure a number is: intervals by drawing the held-out rows, and the seeds, again."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000


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

    Seeds and rows are drawn with replacement, both (Efron, "Bootstrap Methods", 1979,
    https://doi.org/10.1214/aos/1176344552): the interval holds what another seed and other rows
    of the same kind would change. Two calls of one `seed` draw the same seeds and rows, so that
    the difference of two arms is paired if it is formed before: see `difference`.

    Args:
        sums: Of each row, for each training seed.
        weights: What the sums are divided by, such as scored tokens.
        seed: Of the draws.
    """
    return _estimate(_drawn(sums, weights, seed), _mean(sums, weights))


def difference(
    one: tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R"]],
    other: tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R"]],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`ratio(*one) - ratio(*other)`, both drawn with the same seeds and rows: paired.

    Args:
        one: Sums and weights, as for `ratio`.
        other: The same of what is compared with it.
        seed: Of the draws.
        level: How often the interval is to hold; 95 % wherever nothing else is said.
    """
    drawn = _drawn(*one, seed) - _drawn(*other, seed)
    return _estimate(drawn, _mean(*one) - _mean(*other), level)


def _drawn(
    sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"], seed: int
) -> Float[np.ndarray, " draws"]:
    random = np.random.default_rng(seed)
    num_seeds, num_rows = sums.shape
    drawn = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        rows = random.integers(num_rows, size=num_rows)
        seeds = random.integers(num_seeds, size=num_seeds)
        totals = sums[seeds][:, rows].sum(axis=1), weights[seeds][:, rows].sum(axis=1)
        drawn[draw] = (totals[0] / totals[1]).mean()
    return drawn


def _mean(sums: Float[np.ndarray, "S R"], weights: Float[np.ndarray, "S R"]) -> float:
    return float((sums.sum(axis=1) / weights.sum(axis=1)).mean())


def _estimate(drawn: Float[np.ndarray, " draws"], value: float, level: float = 0.95) -> Estimate:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
