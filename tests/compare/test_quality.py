"""Models are compared on the same bytes, and fall behind only where that is clear."""

import numpy as np
import pytest

from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.quality import (
    ScoredWords,
    add_quality,
    add_task_scores,
    add_word_bins,
    collect_scored_words,
)
from jaxdistill.compare.scoring import ModelScores, RowScores
from jaxdistill.data import WordOffsets
from jaxdistill.errors import UserError
from jaxdistill.evals import bootstrap, make_word_table

NUM_ROWS = 24


def model_scores(
    word_ends: list[int],
    nats: list[float],
    *,
    first_position: int = 0,
    token_ends: list[int] | None = None,
) -> ModelScores:
    """Scores of rows "cat sat" in two tokens, by default one per word."""
    words = WordOffsets(
        texts=("cat", "sat"),
        word_ends=np.array(word_ends),
        positions=np.array([first_position, 1]),
        token_ends=np.array(token_ends or word_ends),
    )
    row = RowScores(words, np.array(nats), {})
    return dict.fromkeys(range(NUM_ROWS), row)


# The first tokenizer has the space before "cat" in the word: 4 bytes instead of 3.
PIECES, BYTES = model_scores([4, 8], [5.0, 1.0]), model_scores([3, 7], [9.0, 2.0])


def test_models_are_compared_on_the_same_bytes_in_any_order():
    values = {}
    for scores in (
        {"pieces": PIECES, "bytes": BYTES},
        {"bytes": BYTES, "pieces": PIECES},
    ):
        metrics = ComparisonMetrics(scores)
        add_quality(metrics, collect_scored_words(scores), scores, 0.05)
        for name in scores:
            values.setdefault(name, []).append(metrics.value(name, "bits_per_byte"))
    # " sat" alone: 4 bytes.
    assert values["pieces"] == pytest.approx([0.25 / np.log(2)] * 2)
    assert values["bytes"] == pytest.approx([0.5 / np.log(2)] * 2)


def test_rows_without_a_word_that_is_predicted_whole_are_refused():
    unpredicted = model_scores([3, 7], [0.0, 0.0], first_position=-1, token_ends=[6, 7])
    with pytest.raises(UserError, match="no word of these rows is the same bytes"):
        collect_scored_words({"a": unpredicted, "b": unpredicted})


def test_log_probabilities_that_are_not_finite_name_their_model():
    broken = model_scores([4, 8], [1.0, np.nan])
    with pytest.raises(UserError, match="broken gives a word a log-probability that is not finite"):
        collect_scored_words({"good": PIECES, "broken": broken})


def test_the_metrics_file_is_json_also_for_values_that_are_not_finite():
    metrics = ComparisonMetrics(["a"])
    metrics.add("a", "bits_per_byte", float("nan"))
    assert metrics.to_jsonl() == '{"model": "a", "quantity": "bits_per_byte", "value": null}\n'
    assert metrics.show("a", "bits_per_byte") == "nan"


def scored_words(num_rows: int, extra_nats: dict[int, float]) -> ScoredWords:
    """Rows of twelve words; the candidate pays `extra_nats` by index of the word in its row."""
    word_ends = [np.arange(4, 52, 4)] * num_rows
    table = make_word_table([[f"word{n}" for n in range(12)]] * num_rows, word_ends)
    noise = np.random.default_rng(0).normal(size=len(table.example_indices))
    extra = np.array([extra_nats.get(index, 0.0) for index in table.word_indices.tolist()])
    nats = {"a": np.full(len(noise), 2.0), "b": 2.0 + noise + extra}
    return ScoredWords(table, np.full(len(noise), True), nats)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 400)


@pytest.mark.usefixtures("few_resamples")
def test_the_worst_bin_is_where_a_model_is_clearly_worse():
    late = dict.fromkeys(range(5, 13), 3.0)
    breakdown = add_word_bins(ComparisonMetrics("ab"), scored_words(30, late))
    assert breakdown.worst_bin == {"b": "words 5 to 16 of an answer"}
    better_everywhere = dict.fromkeys(range(1, 13), -3.0)
    breakdown = add_word_bins(ComparisonMetrics("ab"), scored_words(30, better_everywhere))
    assert breakdown.worst_bin == {"b": None}


@pytest.mark.usefixtures("few_resamples")
def test_few_rows_have_no_interval_and_no_worst_bin():
    metrics = ComparisonMetrics("ab")
    breakdown = add_word_bins(metrics, scored_words(19, dict.fromkeys(range(1, 13), 3.0)))
    assert breakdown.worst_bin == {"b": None}
    assert all(metric.low is None for metric in metrics)
    metrics = ComparisonMetrics("ab")
    add_task_scores(metrics, {name: {"exact_match": np.ones(19)} for name in "ab"}, 0.1)
    assert all(metric.low is None for metric in metrics)


def test_one_of_many_intervals_above_0_is_not_clear(monkeypatch: pytest.MonkeyPatch):
    """A 95 % interval barely above 0 contains 0 once it is widened."""
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 2000)
    # 20 rows, of which 14 cost more: mean 0.4, standard error about 0.2.
    table = make_word_table([["word"]] * 20, [np.array([4])] * 20)
    extra = np.where(np.arange(20) < 14, 1.0, -1.0) + 0.05
    words = ScoredWords(table, np.full(20, True), {"a": np.full(20, 2.0), "b": 2.0 + extra})
    metrics = ComparisonMetrics("ab")
    worst_bin = add_word_bins(metrics, words).worst_bin["b"]
    labels = {metric.bin for metric in metrics if metric.quantity == "extra_bits_per_byte"}
    estimates = [metrics.get("b", "extra_bits_per_byte", bin=label) for label in labels]
    assert len(estimates) == 3
    assert all(e is not None and e.low is not None and e.low > 0 for e in estimates)
    assert worst_bin is None


@pytest.mark.usefixtures("few_resamples")
def test_a_task_is_compared_row_by_row():
    first = np.array([1.0, 0.0] * 20)
    metrics = ComparisonMetrics("abc")
    scores = {"a": first, "b": first, "c": 0 * first}
    add_task_scores(
        metrics, {name: {"exact_match": values} for name, values in scores.items()}, 0.1
    )
    same = metrics.get("b", "task_loss")
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert metrics.value("c", "task_loss") == 0.5
    assert metrics.value("a", "accepted_task_loss") == pytest.approx(0.05)
    errors = {"a": {"character_error_rate": first}, "b": {"character_error_rate": 2 * first}}
    add_task_scores(metrics, errors, 0.1)
    assert metrics.value("b", "task_loss") == 0.5
    assert metrics.quantity("task/character_error_rate").better == "lower"
