"""Models are compared on the same bytes, and said to fall behind only where they do."""

import numpy as np
import pytest

from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics
from jaxdistill.compare.quality import (
    ScoredWords,
    add_quality,
    add_required_rows,
    add_task_scores,
    add_word_bins,
    collect_scored_words,
)
from jaxdistill.compare.scoring import ModelScores
from jaxdistill.data import WordOffsets
from jaxdistill.errors import UserError
from jaxdistill.evals import Estimate, bootstrap, make_word_table

ROWS = range(24)


def reading(
    ends: list[int],
    nats: list[float],
    *,
    first_position: int = 0,
    token_ends: list[int] | None = None,
) -> ModelScores:
    """A model that reads the rows "cat sat" in two tokens, one a word unless it is said."""
    words = WordOffsets(
        texts=("cat", "sat"),
        word_ends=np.array(ends),
        positions=np.array([first_position, 1]),
        token_ends=np.array(token_ends or ends),
    )
    return ModelScores(
        has_same_tokenizer=False,
        sums_by_example={},
        words_by_example=dict.fromkeys(ROWS, words),
        word_nats_by_example=dict.fromkeys(ROWS, np.array(nats)),
    )


# One brings the space before "cat" with it: 4 bytes and not 3.
PIECES, BYTES = reading([4, 8], [5.0, 1.0]), reading([3, 7], [9.0, 2.0])


def test_models_are_compared_on_the_same_bytes_whichever_is_first():
    found = {}
    for readings in (
        {"pieces": PIECES, "bytes": BYTES},
        {"bytes": BYTES, "pieces": PIECES},
    ):
        record = ComparisonMetrics()
        add_quality(record, collect_scored_words(readings, ROWS), readings, ROWS, 0.05)
        for name in readings:
            line = record.get(name, "bits_per_byte")
            assert line is not None
            found.setdefault(name, []).append(line.value)
    # " sat" alone: 4 bytes.
    assert found["pieces"] == pytest.approx([0.25 / np.log(2)] * 2)
    assert found["bytes"] == pytest.approx([0.5 / np.log(2)] * 2)


def test_rows_without_a_word_that_is_scored_whole_are_refused():
    unpredicted = reading([3, 7], [0.0, 0.0], first_position=-1, token_ends=[6, 7])
    with pytest.raises(UserError, match="no word of these rows is the same bytes"):
        collect_scored_words({"a": unpredicted, "b": unpredicted}, ROWS)


def test_costs_that_are_no_numbers_are_told_of_their_model():
    with pytest.raises(UserError, match="what broken pays for a word is not finite"):
        collect_scored_words({"good": PIECES, "broken": reading([4, 8], [1.0, np.nan])}, ROWS)


def test_the_record_is_json_whatever_it_holds():
    record = ComparisonMetrics()
    record.add("a", "bits_per_byte", float("nan"))
    assert record.to_jsonl() == '{"model": "a", "quantity": "bits_per_byte", "value": null}\n'
    assert record.show("a", "bits_per_byte").text == "nan"


def words_of(num_rows: int, more: dict[int, float]) -> ScoredWords:
    """Rows of twelve words; words cost the candidate `more` nats by place."""
    ends = [np.arange(4, 52, 4)] * num_rows
    table = make_word_table([[f"word{n}" for n in range(12)]] * num_rows, ends)
    noise = np.random.default_rng(0).normal(size=len(table.example_indices))
    extra = np.array([more.get(place, 0.0) for place in table.word_indices.tolist()])
    nats = {"a": np.full(len(noise), 2.0), "b": 2.0 + noise + extra}
    return ScoredWords(table, np.full(len(noise), True), nats)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 400)


@pytest.mark.usefixtures("few_draws")
def test_a_model_falls_behind_most_where_it_clearly_does():
    late = dict.fromkeys(range(5, 13), 3.0)
    assert add_word_bins(ComparisonMetrics(), words_of(30, late)).worst_bin == {
        "b": "words 5 to 16 of an answer"
    }
    everywhere_better = dict.fromkeys(range(1, 13), -3.0)
    assert add_word_bins(ComparisonMetrics(), words_of(30, everywhere_better)).worst_bin == {
        "b": None
    }


@pytest.mark.usefixtures("few_draws")
def test_few_rows_have_no_interval_and_are_nobodys_worst():
    record = ComparisonMetrics()
    found = add_word_bins(record, words_of(19, dict.fromkeys(range(1, 13), 3.0)))
    assert found.worst_bin == {"b": None}
    assert all(line.low is None for line in record)
    few = ComparisonMetrics()
    add_task_scores(few, {name: {"exact_match": np.ones(19)} for name in "ab"}, 0.1)
    assert all(line.low is None for line in few)


def test_one_of_many_intervals_above_0_is_no_news(monkeypatch: pytest.MonkeyPatch):
    """An interval of 95 % that barely lies above 0 does not once it is widened."""
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 2000)
    # 20 rows, of which 14 cost more: the mean is 0.4, its error 0.2 or so.
    table = make_word_table([["word"]] * 20, [np.array([4])] * 20)
    extra = np.where(np.arange(20) < 14, 1.0, -1.0) + 0.05
    scored = ScoredWords(table, np.full(20, True), {"a": np.full(20, 2.0), "b": 2.0 + extra})
    record = ComparisonMetrics()
    worst = add_word_bins(record, scored).worst_bin["b"]
    labels = {line.bin for line in record if line.quantity == "extra_bits_per_byte"}
    lines = [record.get("b", "extra_bits_per_byte", bin=label) for label in labels]
    assert len(lines) == 3
    assert all(line is not None and line.low is not None and line.low > 0 for line in lines)
    assert worst is None


def test_a_task_is_compared_row_by_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 400)
    first = np.array([1.0, 0.0] * 20)
    record = ComparisonMetrics()
    values = {"a": first, "b": first, "c": 0 * first}
    add_task_scores(record, {name: {"exact_match": one} for name, one in values.items()}, 0.1)
    same, worse, limit = (
        record.get("b", "task_loss"),
        record.get("c", "task_loss"),
        record.get("a", "accepted_task_loss"),
    )
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert worse.value == 0.5
    assert limit.value == pytest.approx(0.05)
    errors = {"a": {"character_error_rate": first}, "b": {"character_error_rate": 2 * first}}
    add_task_scores(record, errors, 0.1)
    assert record.get("b", "task_loss").value == 0.5
    assert record.quantity("task/character_error_rate").better == "less"


def test_rows_that_would_tell_are_noted_only_where_these_do_not():
    record = ComparisonMetrics()
    record.add(ALL_MODELS, "rows", 50)
    record.add("a", "accepted_extra", 0.05)
    record.add("b", "extra_bits_per_byte", Estimate(0.07, 0.03, 0.11))
    record.add("c", "extra_bits_per_byte", Estimate(0.2, 0.1, 0.3))
    add_required_rows(record, "a", ["b", "c"])
    assert record.get("b", "rows_to_tell").value == pytest.approx(200)
    assert record.get("c", "rows_to_tell") is None
