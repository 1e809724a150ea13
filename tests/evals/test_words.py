"""What words cost, worked out by hand, and whatever tokens they are read in."""

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
ANSWERS = ["The cat sat.", " naïve café,  東京 🙂 \n", "x", "Paris is the capital of France."]


def found_words(answers, tokenizer, **options):
    rows = [
        parse_row({"prompt": "What?", "completion": answer}, source="r", row_id=n, as_chat=False)
        for n, answer in enumerate(answers)
    ]
    return word_offsets(rows, tokenizer, **({"loss_on": "completion"} | options))


def test_words_are_those_of_the_text_and_every_byte_is_in_one():
    found = found_words(ANSWERS, tiny.tokenizer())
    assert found[0].texts == ("The", "cat", "sat.")
    assert found[0].word_ends.tolist() == [3, 7, 12]
    assert found[1].texts == ("naïve", "café,", "東京", "🙂")
    for number, answer in enumerate(ANSWERS):
        assert found[number].word_ends[-1] == found[number].token_ends[-1] == len(answer.encode())
        assert found[number].first_predicted_byte == 0


def test_two_tokenizers_have_the_same_words():
    # 260 words are the bytes alone; 320 hold pieces such as " cat".
    bytewise, pieces = (found_words(ANSWERS, tiny.tokenizer(vocab_size=n)) for n in (260, 320))
    for number, answer in enumerate(ANSWERS):
        assert bytewise[number].texts == pieces[number].texts
        np.testing.assert_array_equal(bytewise[number].word_ends, pieces[number].word_ends)
        assert len(bytewise[number].token_ends) == len(answer.encode())
    assert len(pieces[3].token_ends) < len(bytewise[3].token_ends)


def test_turns_do_not_run_into_each_other_and_the_first_token_is_not_scored():
    talk = [{"role": r, "content": c} for r, c in [("user", "Hi"), ("assistant", "Yes.")] * 2]
    row = parse_row({"messages": talk}, source="r", row_id=0, as_chat=False)
    assert word_offsets([row], tiny.tokenizer(), loss_on="completion")[0].texts == ("Yes.", "Yes.")
    text = parse_row({"text": "The cat"}, source="r", row_id=0, as_chat=False)
    (plain,) = word_offsets([text], tiny.tokenizer(), loss_on="completion").values()
    assert plain.positions[0] == -1
    assert plain.first_predicted_byte > 0
    (begun,) = word_offsets([text], tiny.tokenizer(bos=True), loss_on="completion").values()
    assert begun.first_predicted_byte == 0


def test_a_token_over_two_words_is_shared_out_by_its_bytes():
    # "ab cd": one token "ab c" of 4 nats, another "d" of 1; pieces of one character reach alike.
    assert sum_nats_by_word(np.array([4.0, 1.0]), np.array([4, 5]), np.array([2, 5])).tolist() == [
        2,
        3,
    ]
    pieces = sum_nats_by_word(np.array([1.0, 2.0, 4.0]), np.array([4, 4, 5]), np.array([4, 5]))
    assert pieces.tolist() == [3, 4]


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 5)), min_size=1), st.data())
def test_nothing_is_lost_or_counted_twice(tokens, draw):
    nats = np.array([value for value, _ in tokens])
    ends = np.cumsum([1, *(size for _, size in tokens[1:])])
    cuts = draw.draw(st.sets(st.integers(1, int(ends[-1]))))
    word_ends = np.array(sorted({*cuts, int(ends[-1])}))
    paid = sum_nats_by_word(nats, ends, word_ends)
    assert paid.sum() == pytest.approx(nats.sum())
    assert (paid >= -1e-9).all()


def table():
    texts = [["The", "cat"], ["the", "dog", "saw", "the", "rat."], ["rat"]]
    return make_word_table(texts, [np.array([3, 7]), np.array([3, 7, 11, 15, 20]), np.array([3])])


def test_the_columns_of_words():
    found = table()
    assert found.example_indices.tolist() == [0, 0, 1, 1, 1, 1, 1, 2]
    assert found.num_bytes.tolist() == [3, 4, 3, 4, 4, 4, 5, 3]
    assert found.frequencies.tolist() == [3, 1, 3, 1, 1, 3, 2, 2]  # case and punctuation aside
    assert found.word_indices.tolist() == [1, 2, 1, 2, 3, 4, 5, 1]
    assert found.num_words_in_example.tolist() == [2, 2, 5, 5, 5, 5, 5, 1]


def test_each_breakdown_has_every_word_once():
    parts = make_word_bins(table())
    for name in ("frequency", "position", "length"):
        members = [one.mask for one in parts if one.breakdown == name]
        assert np.sum(members, axis=0).tolist() == [1] * 8
        assert all(one.any() for one in members)
    assert [one.label for one in parts if one.breakdown == "length"] == [
        "answers of up to 1 word",
        "answers of 2 words",
        "answers of more than 2 words",
    ]


def test_what_a_bin_costs():
    found = table()
    once = next(one for one in make_word_bins(found) if one.label == "words that occur once")
    nats = np.arange(8) * NATS_PER_BIT
    # cat, dog and saw: 1, 3 and 4 bits, and 12 bytes
    assert bits_per_byte(found, once.mask, nats).value == pytest.approx(8 / 12)
    more = extra_bits_per_byte(found, once.mask, nats + 2 * NATS_PER_BIT, nats)
    assert more.value == pytest.approx(6 / 12)
    assert more.low == pytest.approx(more.high) == pytest.approx(0.5)
