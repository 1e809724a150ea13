"""Means, calibration error and sums by example, compared with values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.evals import (
    TokenMetrics,
    add_digit_accuracy,
    mean_metrics,
    position_records,
    sum_by_example,
)
from jaxdistill.evals.aggregation import calibration_error


def token_metrics(**values: list[float]) -> TokenMetrics:
    return TokenMetrics(
        example_ids=np.array([7, 3, 7, 3, 3]),
        positions=np.array([4, 2, 5, 3, 9]),
        labels=np.zeros(5, int),
        values={name: np.array(value, np.float32) for name, value in values.items()},
    )


PLAIN = {
    "nll": [1.0, 2.0, 3.0, 4.0, 5.0],
    "accuracy": [1.0, 0.0, 1.0, 0.0, 0.0],
    "confidence": [0.5, 0.5, 0.9, 0.5, 0.1],
}


def test_means_perplexity_and_bits_per_byte() -> None:
    with_teacher = token_metrics(**PLAIN, teacher_nll=[1.0] * 5, forward_kl=[2.0] * 5)
    assert mean_metrics(with_teacher, num_bytes=10) == pytest.approx(
        {
            "nll": 3.0,
            "accuracy": 0.4,
            "teacher_nll": 1.0,
            "forward_kl": 2.0,
            "perplexity": math.exp(3),
            "teacher_perplexity": math.e,
            "bits_per_byte": 15 / math.log(2) / 10,
            "teacher_bits_per_byte": 5 / math.log(2) / 10,
            # |1.5 - 1| in the bin of confidence 0.5, 0.1 in each of the bins of 0.9 and 0.1
            "calibration_error": (0.5 + 0.1 + 0.1) / 5,
            "scored_tokens": 5,
        }
    )


def test_positions_are_averaged_in_parts_of_equal_width() -> None:
    metrics = token_metrics(**PLAIN)  # at positions 4, 2, 5, 3 and 9
    assert position_records(metrics, 4) == [
        {"position": 0, "tokens": 2, "nll": 3.0},
        {"position": 4, "tokens": 2, "nll": 2.0},
        {"position": 8, "tokens": 1, "nll": 5.0},
    ]


def test_digit_accuracy_counts_digits_only() -> None:
    metrics = replace(token_metrics(**PLAIN), labels=np.array([1, 1, 0, 2, 0]))
    with_digits = add_digit_accuracy(metrics, np.array([True, False, False]))
    assert mean_metrics(with_digits, num_bytes=10)["digit_accuracy"] == 0.5
    sums = sum_by_example(with_digits)
    np.testing.assert_array_equal(sums["digits"], [1, 1])
    np.testing.assert_array_equal(sums["digit_accuracy"], [0, 1])
    no_digits = add_digit_accuracy(metrics, np.zeros(3, bool))
    means = mean_metrics(no_digits, num_bytes=10)
    assert means.keys() == mean_metrics(metrics, num_bytes=10).keys()


def test_perplexity_may_be_infinite_and_without_bytes_there_are_no_bits_per_byte() -> None:
    means = mean_metrics(token_metrics(**{**PLAIN, "nll": [1e4] * 5}), num_bytes=0)
    assert means["perplexity"] == math.inf
    assert "bits_per_byte" not in means


def test_sums_by_example() -> None:
    sums = sum_by_example(token_metrics(**PLAIN))
    np.testing.assert_array_equal(sums["example_ids"], [3, 7])
    np.testing.assert_array_equal(sums["scored_tokens"], [3, 2])
    np.testing.assert_array_equal(sums["nll"], [11, 4])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_is_between_the_gap_of_means_and_the_mean_gap(
    predictions: list[tuple[float, bool]],
) -> None:
    confidence, accuracy = (np.array(column, float) for column in zip(*predictions, strict=True))
    error = calibration_error(confidence, accuracy)
    assert abs(confidence.mean() - accuracy.mean()) - 1e-9 <= error
    assert error <= np.abs(confidence - accuracy).mean() + 1e-9
