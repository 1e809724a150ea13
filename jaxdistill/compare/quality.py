"""The quality of models on shared rows, and where it is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxdistill import evals
from jaxdistill.compare.decision_rules import MIN_ROWS, worst_status
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics
from jaxdistill.compare.recommendation import check_quality
from jaxdistill.compare.scoring import ComparableRows, ModelScores
from jaxdistill.errors import UserError

_TOKEN_METRICS = {
    "forward_kl": "kl_to_first",
    "top1_agreement": "top1_agreement",
    "top5_agreement": "top5_agreement",
}


@dataclass(frozen=True)
class ScoredWords:
    """The words of the shared rows.

    Attributes:
        table: All of them.
        members: Those that are the same bytes to every model, and scored from the first of them.
        nats: What each model pays for each, the first model first.
    """

    table: evals.WordTable
    is_scored: Bool[np.ndarray, " W"]
    nats: Mapping[str, Float[np.ndarray, " W"]]


@dataclass(frozen=True)
class WordBreakdown:
    """Where candidates pay more than the first model.

    Attributes:
        bins: The labels of the words, by "frequency", "position" and "length".
        worst: For each candidate the label, over all three, where it pays most; None where it
            pays clearly more nowhere.
    """

    bins: Mapping[str, Sequence[str]]
    worst_bin: Mapping[str, str | None]


def collect_scored_words(
    scores: Mapping[str, ModelScores], example_ids: Sequence[int]
) -> ScoredWords:
    """The words of the shared rows, and what each model pays for them.

    Raises:
        UserError: where no word can be compared, or a model pays what is no number.
    """
    words = [next(iter(scores.values())).words_by_example[row] for row in example_ids]
    members = np.concatenate([_shared_word_mask(list(scores.values()), row) for row in example_ids])
    if not members.any():
        raise UserError(
            "compare: no word of these rows is the same bytes to every model and predicted whole. "
            "Give longer rows, or rows with prompts."
        )
    nats = {
        name: np.concatenate([reading.word_nats_by_example[row] for row in example_ids])
        for name, reading in scores.items()
    }
    if wrong := [name for name, paid in nats.items() if not np.isfinite(paid[members]).all()]:
        raise UserError(
            *(
                f"compare: what {name} pays for a word is not finite. See whether its weights are."
                for name in wrong
            )
        )
    table = evals.make_word_table([row.texts for row in words], [row.word_ends for row in words])
    return ScoredWords(table, members, nats)


def add_excluded_rows(
    metrics: ComparisonMetrics, comparable: ComparableRows, *, num_rows: int, num_blank: int
) -> None:
    """Note how many rows are not compared, and why: blank ones are none of the `num_rows`."""
    num_read = num_rows + num_blank
    metrics.add(ALL_MODELS, "rows_read", num_read)
    metrics.add(ALL_MODELS, "rows_left_out", num_read - len(comparable.example_ids))
    reasons = {(name, "rows_too_long"): count for name, count in comparable.num_too_long.items()}
    reasons |= {
        (ALL_MODELS, "rows_in_other_words"): comparable.num_different_words,
        (ALL_MODELS, "blank_rows"): num_blank,
    }
    for (name, quantity), count in reasons.items():
        if count:
            metrics.add(name, quantity, count)


def add_quality(
    metrics: ComparisonMetrics,
    words: ScoredWords,
    scores: Mapping[str, ModelScores],
    example_ids: Sequence[int],
    tolerance: float,
) -> None:
    """Note how well each model predicts the shared words, beside the first of them.

    The marks that end answers are left aside: not every tokenizer has one, and answers that were
    broken off have none.
    """
    first, *candidates = scores
    metrics.add(ALL_MODELS, "rows", len(example_ids))
    metrics.add(ALL_MODELS, "tolerance", tolerance)
    _add_word_costs(metrics, words, words.is_scored)
    base = metrics.get(first, "bits_per_byte")
    assert base is not None
    metrics.add(first, "accepted_extra", tolerance * base.value)
    for name in candidates:
        if scores[name].has_same_tokenizer:
            for column, quantity in _TOKEN_METRICS.items():
                mean = _token_mean(scores[name], example_ids, column)
                metrics.add(name, quantity, _drop_small_sample_interval(mean, len(example_ids)))


def add_task_scores(
    metrics: ComparisonMetrics,
    scores: Mapping[str, Mapping[str, Float[np.ndarray, " R"]]],
    tolerance: float,
) -> None:
    """Note each metric of a task, and by how much the first of them is worse, rows paired.

    Args:
        record: Takes the numbers.
        scores: Of each model, the first one first: each metric of every row.
        tolerance: As for `measure_quality`: a fraction of the first model's score.
    """
    for name, scores_by_metric in scores.items():
        for metric, values in scores_by_metric.items():
            metrics.add(
                name, f"task/{metric}", _drop_small_sample_interval(evals.mean(values), len(values))
            )
    first, *candidates = scores
    metric = next(iter(scores[first]))
    base = metrics.get(first, f"task/{metric}")
    assert base is not None
    metrics.add(first, "accepted_task_loss", tolerance * base.value)
    sign = 1 if metric in evals.LOWER_IS_BETTER else -1
    for name in candidates:
        worse = sign * (scores[name][metric] - scores[first][metric])
        metrics.add(name, "task_loss", _drop_small_sample_interval(evals.mean(worse), len(worse)))


def add_required_rows(metrics: ComparisonMetrics, baseline: str, candidates: Sequence[str]) -> None:
    """Note how many rows would tell of each candidate that these do not tell of."""
    for name in candidates:
        checked = check_quality(metrics, baseline, name)
        if worst_status(one.status for one in checked) in ("unclear", "few"):
            open_ones = [one for one in checked if one.status in ("unclear", "few")]
            needed = [one.num_rows_needed for one in open_ones]
            known = [one for one in needed if one is not None]
            if len(known) == len(needed):
                metrics.add(name, "rows_to_tell", max(known))


def add_word_bins(metrics: ComparisonMetrics, words: ScoredWords) -> WordBreakdown:
    """Note what words of each kind cost; says where each candidate pays most.

    A bin of few rows has no interval, and is nobody's worst.
    """
    bins: dict[str, list[str]] = {}
    many: dict[str, Bool[np.ndarray, " W"]] = {}
    for one in evals.make_word_bins(words.table):
        members = one.mask & words.is_scored
        if members.any():
            bins.setdefault(one.breakdown, []).append(one.label)
            _add_word_costs(metrics, words, members, one.label)
            if _count_rows(words, members) >= MIN_ROWS:
                many[one.label] = members
    _, *candidates = words.nats
    return WordBreakdown(
        bins, {name: _find_worst_bin(metrics, words, name, many) for name in candidates}
    )


def _drop_small_sample_interval(estimate: evals.Estimate, num_rows: int) -> evals.Estimate | float:
    """With its interval where it is of rows enough to have one."""
    return estimate if num_rows >= MIN_ROWS else estimate.value


def _count_rows(words: ScoredWords, mask: Bool[np.ndarray, " W"]) -> int:
    return len(np.unique(words.table.example_indices[mask]))


def _add_word_costs(
    metrics: ComparisonMetrics,
    words: ScoredWords,
    mask: Bool[np.ndarray, " W"],
    bin_label: str = "",
) -> None:
    first, *candidates = words.nats
    num_rows = _count_rows(words, mask)
    metrics.add(ALL_MODELS, "words", int(mask.sum()), bin=bin_label)
    for name, nats in words.nats.items():
        cost = evals.bits_per_byte(words.table, mask, nats)
        metrics.add(
            name, "bits_per_byte", _drop_small_sample_interval(cost, num_rows), bin=bin_label
        )
    for name in candidates:
        more = evals.extra_bits_per_byte(words.table, mask, words.nats[name], words.nats[first])
        metrics.add(
            name, "extra_bits_per_byte", _drop_small_sample_interval(more, num_rows), bin=bin_label
        )


def _find_worst_bin(
    metrics: ComparisonMetrics,
    words: ScoredWords,
    candidate: str,
    masks_by_bin: Mapping[str, Bool[np.ndarray, " W"]],
) -> str | None:
    """Where a candidate clearly pays more, and most of all.

    Of many intervals of 95 % some lie above 0 by chance: those here are wider, so that all of
    them together hold in 95 % (Bonferroni's correction).
    """
    first = next(iter(words.nats))
    found: dict[str, float] = {}
    for label, members in masks_by_bin.items():
        line = metrics.get(candidate, "extra_bits_per_byte", bin=label)
        if line is None or line.low is None or line.low <= 0:
            continue
        nats, level = (words.nats[candidate], words.nats[first]), 1 - 0.05 / len(masks_by_bin)
        if evals.extra_bits_per_byte(words.table, members, *nats, level=level).low > 0:
            found[label] = line.value
    return max(found, key=lambda label: found[label], default=None)


def _shared_word_mask(scores: Sequence[ModelScores], example_id: int) -> Bool[np.ndarray, " _"]:
    """Which words of a row are the same bytes to every model, which has scored all of them.

    A token that lies across the seam of prompt and answer brings its space to the first word.
    """
    words = [reading.words_by_example[example_id] for reading in scores]
    sizes = np.stack([np.diff(one.word_ends, prepend=0) for one in words])
    is_whole = [
        one.word_ends - size >= one.first_predicted_byte
        for one, size in zip(words, sizes, strict=True)
    ]
    return (sizes == sizes[0]).all(axis=0) & np.all(is_whole, axis=0)


def _token_mean(scores: ModelScores, example_ids: Sequence[int], column: str) -> evals.Estimate:
    """The mean over tokens of what was summed by row."""
    sums, counts = np.array(
        [
            [scores.sums_by_example[row][column], scores.sums_by_example[row]["scored_tokens"]]
            for row in example_ids
        ]
    ).T
    return evals.ratio(sums[None], counts[None])
