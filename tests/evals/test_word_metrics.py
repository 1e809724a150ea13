"""Word metrics compared with values computed by hand, for several tokenizers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.word_offsets import word_offsets
from jaxdistill.evals import (
    bits_per_byte,
    extra_bits_per_byte,
    make_word_bins,
    make_word_table,
    sum_nats_by_word,
)
from tests import tiny

NATS_PER_BIT = np.log(2)
COMPLETIONS = ["The cat sat.", " naïve café,  東京 🙂 \n", "x", "Paris is the capital of France."]


def completion_words(tokenizer):
    rows = [
        parse_row({"prompt": "What?", "completion": text}, source="r", row_id=n, as_chat=False)
        for n, text in enumerate(COMPLETIONS)
    ]
    return word_offsets(rows, tokenizer, loss_on="completion")


def test_words_are_those_of_the_text_and_every_byte_is_in_one():
    words = completion_words(tiny.tokenizer())
    assert words[0].texts == ("The", "cat", "sat.")
    assert words[0].word_ends.tolist() == [3, 7, 12]
    assert words[1].texts == ("naïve", "café,", "東京", "🙂")
    for index, text in enumerate(COMPLETIONS):
        assert words[index].word_ends[-1] == words[index].token_ends[-1] == len(text.encode())
        assert words[index].first_predicted_byte == 0


def test_two_tokenizers_have_the_same_words():
    # 260 tokens are single bytes; 320 have tokens such as " cat".
    bytewise, merged = (completion_words(tiny.tokenizer(vocab_size=n)) for n in (260, 320))
    for index, text in enumerate(COMPLETIONS):
        assert bytewise[index].texts == merged[index].texts
        np.testing.assert_array_equal(bytewise[index].word_ends, merged[index].word_ends)
        assert len(bytewise[index].token_ends) == len(text.encode())
    assert len(merged[3].token_ends) < len(bytewise[3].token_ends)


def test_turns_are_separate_and_a_first_token_without_bos_is_not_scored():
    messages = [{"role": r, "content": c} for r, c in [("user", "Hi"), ("assistant", "Yes.")] * 2]
    row = parse_row({"messages": messages}, source="r", row_id=0, as_chat=False)
    assert word_offsets([row], tiny.tokenizer(), loss_on="completion")[0].texts == ("Yes.", "Yes.")
    text = parse_row({"text": "The cat"}, source="r", row_id=0, as_chat=False)
    (without_bos,) = word_offsets([text], tiny.tokenizer(), loss_on="completion").values()
    assert without_bos.positions[0] == -1
    assert without_bos.first_predicted_byte > 0
    (with_bos,) = word_offsets([text], tiny.tokenizer(bos=True), loss_on="completion").values()
    assert with_bos.first_predicted_byte == 0


def test_the_nats_of_a_token_over_two_words_are_divided_by_bytes():
    # "ab cd": a token "ab c" of 4 nats, and "d" of 1.
    nats = sum_nats_by_word(np.array([4.0, 1.0]), np.array([4, 5]), np.array([2, 5]))
    assert nats.tolist() == [2, 3]
    # Two tokens that share a character end at the same byte.
    nats = sum_nats_by_word(np.array([1.0, 2.0, 4.0]), np.array([4, 4, 5]), np.array([4, 5]))
    assert nats.tolist() == [3, 4]


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 5)), min_size=1), st.data())
def test_the_nats_of_words_sum_to_those_of_tokens(tokens, draw):
    nats = np.array([value for value, _ in tokens])
    ends = np.cumsum([1, *(size for _, size in tokens[1:])])
    cuts = draw.draw(st.sets(st.integers(1, int(ends[-1]))))
    word_ends = np.array(sorted({*cuts, int(ends[-1])}))
    word_nats = sum_nats_by_word(nats, ends, word_ends)
    assert word_nats.sum() == pytest.approx(nats.sum())
    assert (word_nats >= -1e-9).all()


def table():
    words = [["The", "cat"], ["the", "dog", "saw", "the", "rat."], ["rat"]]
    return make_word_table(words, [np.array([3, 7]), np.array([3, 7, 11, 15, 20]), np.array([3])])


def test_columns_of_the_word_table():
    words = table()
    assert words.example_indices.tolist() == [0, 0, 1, 1, 1, 1, 1, 2]
    assert words.num_bytes.tolist() == [3, 4, 3, 4, 4, 4, 5, 3]
    assert words.frequencies.tolist() == [3, 1, 3, 1, 1, 3, 2, 2]  # up to case and punctuation
    assert words.word_indices.tolist() == [1, 2, 1, 2, 3, 4, 5, 1]
    assert words.num_words_in_example.tolist() == [2, 2, 5, 5, 5, 5, 5, 1]


def test_each_breakdown_has_every_word_once():
    bins = make_word_bins(table(), np.full(8, True))
    titles = dict.fromkeys(word_bin.breakdown for word_bin in bins)
    assert len(titles) == 3
    for title in titles:
        masks = [word_bin.mask for word_bin in bins if word_bin.breakdown == title]
        assert np.sum(masks, axis=0).tolist() == [1] * 8
        assert all(mask.any() for mask in masks)
    assert [word_bin.label for word_bin in bins if "long" in word_bin.breakdown] == [
        "answers of up to 1 word",
        "answers of 2 words",
        "answers of more than 2 words",
    ]


def test_bits_per_byte_of_a_bin():
    words = table()
    bins = make_word_bins(words, np.full(8, True))
    labels = {word_bin.label: word_bin.mask for word_bin in bins}
    mask = labels["words that occur once"]
    nats = np.arange(8) * NATS_PER_BIT
    # cat, dog and saw: 1, 3 and 4 bits, and 12 bytes
    assert bits_per_byte(words, mask, nats).value == pytest.approx(8 / 12)
    extra = extra_bits_per_byte(words, mask, nats + 2 * NATS_PER_BIT, nats)
    assert extra.value == pytest.approx(6 / 12)
    assert extra.low == pytest.approx(extra.high) == pytest.approx(0.5)
