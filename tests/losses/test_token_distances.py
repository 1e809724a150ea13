"""Normalised edit distances, compared with the textbook's table (Wagner and Fischer, 1974)."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdistill.losses import normalised_edit_distance

MAX_BYTES = 6
distance = jax.jit(normalised_edit_distance)
STRINGS = st.lists(st.integers(0, 3), max_size=MAX_BYTES)


def table_distance(left, right):
    table = np.zeros((len(left) + 1, len(right) + 1), int)
    table[:, 0], table[0] = np.arange(len(left) + 1), np.arange(len(right) + 1)
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)
            )
    return table[-1, -1] / max(len(left), len(right), 1)


@settings(deadline=None)
@given(st.lists(st.tuples(STRINGS, STRINGS), min_size=8, max_size=8))
def test_distances_are_those_of_the_table(pairs):
    arguments = []
    for strings in zip(*pairs, strict=True):
        padded = np.full((len(pairs), MAX_BYTES), 9)  # padding may be anything
        for row, string in zip(padded, strings, strict=True):
            row[: len(string)] = string
        arguments += [padded, np.array([len(string) for string in strings])]
    expected = [table_distance(*pair) for pair in pairs]
    np.testing.assert_allclose(distance(*arguments), expected, rtol=1e-6)
