"""Bootstrap intervals contain the true value as often as their level says."""

import numpy as np
import pytest

from jaxdistill.evals import RatioTerms, difference, ratio


def test_the_value_is_the_ratio_averaged_over_seeds() -> None:
    sums = np.array([[2.0, 4.0], [1.0, 1.0]])
    weights = np.array([[1.0, 2.0], [1.0, 1.0]])
    estimate = ratio(sums, weights)
    assert estimate.value == (2 + 1) / 2
    assert estimate.low <= estimate.value <= estimate.high


def test_without_spread_the_interval_has_no_width() -> None:
    estimate = ratio(np.full((3, 8), 6.0), np.full((3, 8), 2.0))
    assert (estimate.value, estimate.low, estimate.high) == (3, 3, 3)


def test_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    weights = np.ones((3, 50))
    sums = random.normal(10, 5, (1, 50)).repeat(3, axis=0)
    candidate, baseline = RatioTerms(sums + 1, weights), RatioTerms(sums, weights)
    estimate = difference(candidate, baseline)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 1)
    unpaired = ratio(sums, weights)
    assert unpaired.high - unpaired.low > 1


@pytest.mark.parametrize(
    ("num_seeds", "seed_spread", "row_spread"),
    [(1, 0.0, 1.0), (3, 1.0, 0.1), (3, 0.1, 1.0), (5, 1.0, 1.0)],
)
def test_the_interval_covers_the_true_value_at_its_level(
    num_seeds: int, seed_spread: float, row_spread: float
) -> None:
    random = np.random.default_rng(1)
    num_covered = 0
    for trial in range(100):
        sums = 2 + row_spread * random.normal(size=(1, 60))
        sums = sums + seed_spread * random.normal(size=(num_seeds, 1))
        estimate = ratio(sums, np.ones_like(sums), seed=trial)
        num_covered += estimate.low <= 2.0 <= estimate.high
    assert 87 <= num_covered <= 100  # binomial(100, 0.95) is below 87 once in a thousand


def test_with_equal_rows_the_interval_is_that_of_students_t() -> None:
    by_seed = np.array([1.0, 2.0, 4.0])
    estimate = ratio(by_seed[:, None].repeat(20, axis=1), np.ones((3, 20)))
    half = 4.303 * by_seed.std(ddof=1) / np.sqrt(3)  # t at 97.5 %, two degrees of freedom
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.15)


def test_equal_seeds_give_equal_intervals() -> None:
    sums, weights = np.random.default_rng(2).random((2, 3, 9)) + 1
    assert ratio(sums, weights, seed=4) == ratio(sums, weights, seed=4)
    assert ratio(sums, weights, seed=4) != ratio(sums, weights, seed=5)
