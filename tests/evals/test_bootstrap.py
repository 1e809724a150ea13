"""Intervals that hold what they should as often as they should."""

import numpy as np
import pytest

from jaxdistill.evals import difference, ratio


def test_the_value_is_the_ratio_averaged_over_seeds() -> None:
    sums = np.array([[2.0, 4.0], [1.0, 1.0]])
    weights = np.array([[1.0, 2.0], [1.0, 1.0]])
    found = ratio(sums, weights)
    assert found.value == (2 + 1) / 2
    assert found.low <= found.value <= found.high


def test_no_spread_no_interval() -> None:
    found = ratio(np.full((3, 8), 6.0), np.full((3, 8), 2.0))
    assert (found.value, found.low, found.high) == (3, 3, 3)


def test_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    weights = np.ones((3, 50))
    hard = random.normal(10, 5, (1, 50)).repeat(3, axis=0)
    found = difference((hard + 1, weights), (hard, weights))
    np.testing.assert_allclose([found.value, found.low, found.high], 1)
    alone = ratio(hard, weights)
    assert alone.high - alone.low > 1


@pytest.mark.parametrize(
    ("num_seeds", "of_seeds", "of_rows"),
    [(1, 0.0, 1.0), (3, 1.0, 0.1), (3, 0.1, 1.0), (5, 1.0, 1.0)],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    num_seeds: int, of_seeds: float, of_rows: float
) -> None:
    random = np.random.default_rng(1)
    held = 0
    for trial in range(100):
        sums = 2 + of_rows * random.normal(size=(1, 60))
        sums = sums + of_seeds * random.normal(size=(num_seeds, 1))
        found = ratio(sums, np.ones_like(sums), seed=trial)
        held += found.low <= 2.0 <= found.high
    assert 87 <= held <= 100  # binomial(100, 0.95): below it in one of a thousand


def test_where_rows_are_alike_the_interval_is_students() -> None:
    by_seed = np.array([1.0, 2.0, 4.0])
    found = ratio(by_seed[:, None].repeat(20, axis=1), np.ones((3, 20)))
    half = 4.303 * by_seed.std(ddof=1) / np.sqrt(3)  # t at 97.5 %, two degrees of freedom
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_one_seed_draws_the_same() -> None:
    sums, weights = np.random.default_rng(2).random((2, 3, 9)) + 1
    assert ratio(sums, weights, seed=4) == ratio(sums, weights, seed=4)
    assert ratio(sums, weights, seed=4) != ratio(sums, weights, seed=5)
