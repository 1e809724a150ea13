"""Means, calibration and sums of rows against what can be worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.evals import TokenMetrics, add_digit_accuracy, mean_metrics, sum_by_example
from jaxdistill.evals.aggregation import calibration_error


def places(**values: list[float]) -> TokenMetrics:
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


def test_means_and_what_follows_from_them() -> None:
    found = mean_metrics(places(**PLAIN, teacher_nll=[1.0] * 5, forward_kl=[2.0] * 5), num_bytes=10)
    assert found == pytest.approx(
        {
            "nll": 3.0,
            "accuracy": 0.4,
            "teacher_nll": 1.0,
            "forward_kl": 2.0,
            "perplexity": math.exp(3),
            "teacher_perplexity": math.e,
            "bits_per_byte": 15 / math.log(2) / 10,
            "teacher_bits_per_byte": 5 / math.log(2) / 10,
            # |1.5 - 1| where 0.5 was said, 0.1 and 0.1 in the bins of 0.9 and 0.1
            "calibration_error": (0.5 + 0.1 + 0.1) / 5,
            "scored_tokens": 5,
        }
    )


def test_digits_are_counted_apart() -> None:
    of_words = replace(places(**PLAIN), labels=np.array([1, 1, 0, 2, 0]))
    found = add_digit_accuracy(of_words, np.array([True, False, False]))
    assert mean_metrics(found, num_bytes=10)["digit_accuracy"] == 0.5
    rows = sum_by_example(found)
    np.testing.assert_array_equal(rows["digits"], [1, 1])
    np.testing.assert_array_equal(rows["digit_accuracy"], [0, 1])
    none = add_digit_accuracy(of_words, np.zeros(3, bool))
    assert mean_metrics(none, num_bytes=10).keys() == mean_metrics(of_words, num_bytes=10).keys()


def test_a_hopeless_model_has_infinite_perplexity_and_no_bytes_no_bits() -> None:
    found = mean_metrics(places(**{**PLAIN, "nll": [1e4] * 5}), num_bytes=0)
    assert found["perplexity"] == math.inf
    assert "bits_per_byte" not in found


def test_sums_of_rows() -> None:
    found = sum_by_example(places(**PLAIN))
    np.testing.assert_array_equal(found["example_ids"], [3, 7])
    np.testing.assert_array_equal(found["scored_tokens"], [3, 2])
    np.testing.assert_array_equal(found["nll"], [11, 4])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_is_between_no_gap_and_all(said: list[tuple[float, bool]]) -> None:
    confidence, accuracy = (np.array(column, float) for column in zip(*said, strict=True))
    error = calibration_error(confidence, accuracy)
    assert abs(confidence.mean() - accuracy.mean()) - 1e-9 <= error
    assert error <= np.abs(confidence - accuracy).mean() + 1e-9
