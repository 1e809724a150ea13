"""Share of repeated n-grams against what can be counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.evals import repeated_ngrams

Texts = st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=5)


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        ([[1, 2, 3, 4, 5, 6]], 0),
        ([[7] * 13], 9 / 10),  # ten 4-grams, one of them distinct
        ([[1, 2, 3, 4, 1, 2, 3, 4]], 1 / 5),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], 0),  # what another text has said is no repetition
        ([[7] * 13, [1, 2, 3, 4, 5]], 9 / 12),  # sums over texts, not a mean of shares
        ([[1, 2, 3]], 0),
        ([], 0),
    ],
)
def test_the_share_counted_by_hand(texts, share):
    assert repeated_ngrams(texts) == pytest.approx(share)


@given(Texts)
def test_the_share_is_a_share_and_ignores_the_order_of_texts(texts):
    share = repeated_ngrams(texts)
    assert 0 <= share < 1
    assert repeated_ngrams(texts[::-1]) == share


@given(Texts, st.permutations(range(4)))
def test_the_share_ignores_which_token_has_which_number(texts, renamed):
    assert repeated_ngrams([[renamed[t] for t in text] for text in texts]) == repeated_ngrams(texts)
