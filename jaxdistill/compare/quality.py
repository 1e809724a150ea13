"""Quality of models on shared rows: bits per byte, token agreement, tasks, and weakest words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxdistill import data, evals
from jaxdistill.compare.metrics import ALL_MODELS, MIN_ROWS, ComparisonMetrics
from jaxdistill.compare.scoring import ModelScores
from jaxdistill.errors import UserError

_TOKEN_METRICS = {
    "forward_kl": "kl_to_first",
    "top1_agreement": "top1_agreement",
    "top5_agreement": "top5_agreement",
}


@dataclass(frozen=True)
class ScoredWords:
    """Words of the shared rows, and their cost.

    Attributes:
        table: All words.
        is_scored: True for words of the same bytes to every model, all of them predicted.
        nats: Cost of each word by model, the first model first.
    """

    table: evals.WordTable
    is_scored: Bool[np.ndarray, " W"]
    nats: Mapping[str, Float[np.ndarray, " W"]]

    def num_rows(self, mask: Bool[np.ndarray, " W"]) -> int:
        """Count the rows that have any word of `mask`."""
        return len(np.unique(self.table.example_indices[mask]))


@dataclass(frozen=True)
class WordBreakdown:
    """Bins of words, and the bin on which each candidate falls behind most.

    Attributes:
        bins: Labels of the bins by title of the breakdown.
        worst_bin: Label by candidate; None if it is clearly worse on no bin.
    """

    bins: Mapping[str, Sequence[str]]
    worst_bin: Mapping[str, str | None]


def collect_scored_words(scores: Mapping[str, ModelScores]) -> ScoredWords:
    """Collect the words of the shared rows, and their cost for each model.

    Raises:
        UserError: if no word can be compared, or the cost of a word is not finite.
    """
    rows = {name: list(model_scores.values()) for name, model_scores in scores.items()}
    words = [row.words for row in next(iter(rows.values()))]
    is_scored = np.concatenate(
        [
            _shared_word_mask([row.words for row in same])
            for same in zip(*rows.values(), strict=True)
        ]
    )
    if not is_scored.any():
        raise UserError(
            "compare: no word of these rows is the same bytes to every model and predicted whole. "
            "Give longer rows, or rows with prompts."
        )
    nats = {name: np.concatenate([row.word_nats for row in rows[name]]) for name in rows}
    if wrong := [name for name, values in nats.items() if not np.isfinite(values[is_scored]).all()]:
        raise UserError(
            *(
                f"compare: {name} gives a word a log-probability that is not finite. Check its "
                "weights."
                for name in wrong
            )
        )
    table = evals.make_word_table([row.texts for row in words], [row.word_ends for row in words])
    return ScoredWords(table, is_scored, nats)


def _shared_word_mask(words: Sequence[data.WordOffsets]) -> Bool[np.ndarray, " _"]:
    """Return True for the words of a row that are the same bytes to every model and predicted.

    A token across the seam of prompt and completion brings its space to the first word.
    """
    sizes = np.stack([np.diff(offsets.word_ends, prepend=0) for offsets in words])
    is_predicted = [
        offsets.word_ends - size >= offsets.first_predicted_byte
        for offsets, size in zip(words, sizes, strict=True)
    ]
    return (sizes == sizes[0]).all(axis=0) & np.all(is_predicted, axis=0)


def add_quality(
    metrics: ComparisonMetrics,
    words: ScoredWords,
    scores: Mapping[str, ModelScores],
    tolerance: float,
) -> None:
    """Record how well each model predicts the shared words, and its agreement with the first.

    Special tokens at the end of a completion do not count: not every tokenizer has one, and a
    truncated completion has none.
    """
    first, *candidates = scores
    num_rows = len(scores[first])
    metrics.add(ALL_MODELS, "rows", num_rows)
    metrics.add(ALL_MODELS, "tolerance", tolerance)
    _add_word_costs(metrics, words, words.is_scored)
    metrics.add(first, "accepted_extra", tolerance * metrics.value(first, "bits_per_byte"))
    for name in candidates:
        sums = [row.token_sums for row in scores[name].values()]
        for column, quantity in _TOKEN_METRICS.items():
            if column in sums[0]:
                terms = ([[row[key] for row in sums]] for key in (column, "scored_tokens"))
                mean = evals.ratio(*map(np.array, terms))
                metrics.add(name, quantity, mean, num_rows=num_rows)


def add_task_scores(
    metrics: ComparisonMetrics,
    scores: Mapping[str, Mapping[str, Float[np.ndarray, " R"]]],
    tolerance: float,
) -> None:
    """Record each metric of a task, and by how much the first metric is worse, rows paired.

    `scores` are by model, metric and row; `tolerance` is a fraction of the first model's score.
    """
    for name, columns in scores.items():
        for metric, values in columns.items():
            metrics.add(name, f"task/{metric}", evals.mean(values), num_rows=len(values))
    first, *candidates = scores
    metric = next(iter(scores[first]))
    base = metrics.value(first, f"task/{metric}")
    metrics.add(first, "accepted_task_loss", tolerance * base)
    sign = 1 if metric in evals.LOWER_IS_BETTER else -1
    for name in candidates:
        loss = sign * (scores[name][metric] - scores[first][metric])
        metrics.add(name, "task_loss", evals.mean(loss), num_rows=len(loss))


def add_word_bins(metrics: ComparisonMetrics, words: ScoredWords) -> WordBreakdown:
    """Record the cost of each bin of words, and find each candidate's worst bin.

    A bin of fewer than `MIN_ROWS` rows has no interval, and is never the worst.
    """
    bins = evals.make_word_bins(words.table, words.is_scored)
    labels: dict[str, list[str]] = {}
    for word_bin in bins:
        labels.setdefault(word_bin.breakdown, []).append(word_bin.label)
        _add_word_costs(metrics, words, word_bin.mask, word_bin.label)
    large_bins = [word_bin for word_bin in bins if words.num_rows(word_bin.mask) >= MIN_ROWS]
    _, *candidates = words.nats
    worst_bin = {name: _find_worst_bin(words, name, large_bins) for name in candidates}
    return WordBreakdown(labels, worst_bin)


def _add_word_costs(
    metrics: ComparisonMetrics,
    words: ScoredWords,
    mask: Bool[np.ndarray, " W"],
    label: str = "",
) -> None:
    first, *candidates = words.nats
    num_rows = words.num_rows(mask)
    metrics.add(ALL_MODELS, "words", int(mask.sum()), bin=label)
    for name, nats in words.nats.items():
        cost = evals.bits_per_byte(words.table, mask, nats)
        metrics.add(name, "bits_per_byte", cost, bin=label, num_rows=num_rows)
    for name in candidates:
        extra = evals.extra_bits_per_byte(words.table, mask, words.nats[name], words.nats[first])
        metrics.add(name, "extra_bits_per_byte", extra, bin=label, num_rows=num_rows)


def _find_worst_bin(
    words: ScoredWords, candidate: str, bins: Sequence[evals.WordBin]
) -> str | None:
    """Return the bin with the largest cost above the first model's; None if none is clear.

    Of many 95 % intervals some lie above 0 by chance. The intervals here are wider, so that all
    of them hold together in 95 % of cases (Bonferroni's correction).
    """
    nats = words.nats[candidate], next(iter(words.nats.values()))
    extra: dict[str, float] = {}
    for word_bin in bins:
        level = 1 - 0.05 / len(bins)
        estimate = evals.extra_bits_per_byte(words.table, word_bin.mask, *nats, level=level)
        if estimate.low > 0:
            extra[word_bin.label] = estimate.value
    return max(extra, key=lambda label: extra[label], default=None)
