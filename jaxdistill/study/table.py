"""Results of a study: metrics of each arm with intervals, and differences from the baseline."""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.evals import RATIO_METRICS, Estimate, RatioTerms, difference, ratio
from jaxdistill.report import QUANTITIES, read_metrics, training_effort
from jaxdistill.run.folder import RunFolder
from jaxdistill.study.config import StudyConfig, StudyRun

Scores = list[dict[str, Any]]
"""Scores of one run: a dict for each held-out row."""


@dataclass(frozen=True)
class ArmResult:
    """Quantities of one arm, and mean tokens and training time of its runs.

    Attributes:
        values: Each quantity, over held-out rows and seeds.
        differences: Difference of each quantity from the baseline, seeds and rows paired; empty for
            the baseline.
        by_seed: Each quantity for each seed.
    """

    arm: str
    values: dict[str, Estimate]
    differences: dict[str, Estimate]
    by_seed: dict[str, list[float]]
    mean_tokens: float
    mean_seconds: float


def arm_results(study: StudyConfig, runs: Sequence[StudyRun]) -> list[ArmResult]:
    """Compute the result of every arm from finished runs; the baseline comes first."""
    arms = sorted(study.arms, key=lambda arm: arm != study.baseline)
    folders = {arm: [RunFolder(m.config.output) for m in runs if m.arm == arm] for arm in arms}
    scores = {arm: [_read_scores(folder) for folder in folders[arm]] for arm in arms}
    _check_same_rows(scores)
    baseline = {name: _ratio_terms(name, scores[study.baseline]) for name in study.quantities}
    results = []
    for arm in arms:
        terms = {name: _ratio_terms(name, scores[arm]) for name in study.quantities}
        differences = {name: difference(terms[name], baseline[name]) for name in study.quantities}
        efforts = [training_effort(read_metrics(folder.metrics)) for folder in folders[arm]]
        tokens, seconds = np.mean(efforts, axis=0)
        results.append(
            ArmResult(
                arm=arm,
                values={name: ratio(*ratio_terms) for name, ratio_terms in terms.items()},
                differences={} if arm == study.baseline else differences,
                by_seed={n: (s.sum(1) / w.sum(1)).tolist() for n, (s, w) in terms.items()},
                mean_tokens=float(tokens),
                mean_seconds=float(seconds),
            )
        )
    return results


def markdown_table(study: StudyConfig, results: Sequence[ArmResult]) -> str:
    """Return the results as a Markdown table, the best arm of each quantity in bold."""
    labels = [QUANTITIES[name].label for name in study.quantities]
    head = ["arm", *(f"{label} [95 %]" for label in labels)]
    head += [f"minus {study.baseline}: {label}" for label in labels]
    head += ["tokens", "seconds"]
    best = {name: _best_arm(name, results) for name in study.quantities}
    rows = []
    for result in results:
        cells = [result.arm]
        for name in study.quantities:
            cell = _format_estimate(name, result.values[name])
            cells.append(f"**{cell}**" if result.arm == best[name] else cell)
        for name in study.quantities:
            from_baseline = result.differences.get(name)
            cells.append(_format_difference(name, from_baseline) if from_baseline else "")
        rows.append([*cells, f"{result.mean_tokens:,.0f}", f"{result.mean_seconds:,.0f}"])
    title = [study.question, ""] if study.question else []
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join([*title, *lines, "", _interval_note(study.seeds), ""])


def _interval_note(seeds: Sequence[int]) -> str:
    resampled = "95 % intervals resample the held-out rows, the same for both arms of a difference"
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): {resampled}, and do not cover the spread between seeds."
    return (
        f"Means of {len(seeds)} seeds ({', '.join(map(str, seeds))}). {resampled}, and are widened "
        "by the spread between seeds (Student's t)."
    )


def csv_rows(study: StudyConfig, results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """Return one CSV row for each arm and quantity."""
    rows = []
    for result in results:
        for name in study.quantities:
            from_baseline = result.differences.get(name)
            columns = ("difference", "difference_low", "difference_high")
            difference = astuple(from_baseline) if from_baseline else ("", "", "")
            rows.append(
                {
                    "arm": result.arm,
                    "quantity": name,
                    **asdict(result.values[name]),
                    **dict(zip(columns, difference, strict=True)),
                    "by_seed": json.dumps(result.by_seed[name]),
                    "tokens": result.mean_tokens,
                    "seconds": result.mean_seconds,
                }
            )
    return rows


def _read_scores(folder: RunFolder) -> Scores:
    if not folder.heldout_scores.is_file():
        raise UserError(
            f"{folder.path}: has no held-out rows, so there is nothing to compare. Set "
            "`data.heldout` in the run's config."
        )
    return [json.loads(line) for line in folder.heldout_scores.read_text().splitlines()]


def _check_same_rows(scores_by_arm: dict[str, list[Scores]]) -> None:
    arms_by_rows = {}
    for arm, scores_by_seed in scores_by_arm.items():
        for scores in scores_by_seed:
            key = tuple((row["place"].rpartition(":")[2], row["scored_tokens"]) for row in scores)
            arms_by_rows.setdefault(key, arm)
    if len(arms_by_rows) > 1:
        raise UserError(
            f"the arms {' and '.join(arms_by_rows.values())} were not measured on the same "
            "held-out rows: only arms that share `data.heldout`, `data.length` and the completions "
            "can be compared."
        )


def _ratio_terms(name: str, scores_by_seed: list[Scores]) -> RatioTerms:
    column, weight, factor = RATIO_METRICS[name]
    if column not in scores_by_seed[0][0]:
        raise UserError(f"quantities: {name} was not measured in these runs. Remove it.")
    numerators, denominators = (
        np.array([[row[key] for row in scores] for scores in scores_by_seed], float)
        for key in (column, weight)
    )
    return RatioTerms(factor * numerators, denominators)


def _best_arm(name: str, results: Sequence[ArmResult]) -> str:
    sign = -1 if QUANTITIES[name].better == "higher" else 1
    return min(results, key=lambda result: sign * result.values[name].value).arm


def _format_estimate(name: str, estimate: Estimate) -> str:
    value, low, high = map(QUANTITIES[name].format, astuple(estimate))
    return f"{value} [{low}, {high}]"


def _format_difference(name: str, from_baseline: Estimate) -> str:
    # Percentages differ by points.
    text = _format_estimate(name, from_baseline).replace(" %", " points")
    return f"+{text}" if from_baseline.value > 0 else text
