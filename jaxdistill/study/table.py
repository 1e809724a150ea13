"""What came of a study: each arm's numbers with intervals, beside the baseline's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdistill.errors import UserError
from jaxdistill.evals import RATIO_METRICS, Estimate, difference, ratio
from jaxdistill.report import QUANTITIES, read_metrics, training_effort
from jaxdistill.run.folder import RunFolder
from jaxdistill.study.config import StudyConfig, StudyRun

_RatioTerms = tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R"]]


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Attributes:
        arm: Its name.
        values: Each quantity over held-out rows and seeds.
        differences: From the baseline, seeds and rows paired; empty for the baseline.
        by_seed: Each quantity for each seed.
        tokens: How many tokens a run has read, on average.
        seconds: How long a run has trained, on average.
    """

    arm: str
    values: dict[str, Estimate]
    differences: dict[str, Estimate]
    by_seed: dict[str, list[float]]
    mean_tokens: float
    mean_seconds: float


def arm_results(study: StudyConfig, runs: Sequence[StudyRun]) -> list[ArmResult]:
    """Every arm of a study whose runs are all finished, the baseline first.

    Raises:
        UserError: when runs were not measured on the same rows.
    """
    arms = sorted(study.arms, key=lambda arm: arm != study.baseline)
    folders = {arm: [RunFolder(m.config.output) for m in runs if m.arm == arm] for arm in arms}
    lines = {arm: [_read_scores(folder) for folder in folders[arm]] for arm in arms}
    _check_same_rows(lines)
    base = {name: _ratio_terms(name, lines[study.baseline]) for name in study.quantities}
    found = []
    for arm in arms:
        ratios = {name: _ratio_terms(name, lines[arm]) for name in study.quantities}
        differences = {name: difference(ratios[name], base[name]) for name in study.quantities}
        costs = np.mean([training_effort(read_metrics(f.metrics)) for f in folders[arm]], axis=0)
        found.append(
            ArmResult(
                arm=arm,
                values={name: ratio(*one) for name, one in ratios.items()},
                differences={} if arm == study.baseline else differences,
                by_seed={n: (s.sum(1) / w.sum(1)).tolist() for n, (s, w) in ratios.items()},
                mean_tokens=float(costs[0]),
                mean_seconds=float(costs[1]),
            )
        )
    return found


def markdown_table(study: StudyConfig, results: Sequence[ArmResult]) -> str:
    """The table as people read it, the best of each quantity in bold."""
    labels = [QUANTITIES[name].label for name in study.quantities]
    head = ["arm", *(f"{label} [95 %]" for label in labels)]
    head += [f"minus {study.baseline}: {label}" for label in labels]
    head += ["tokens", "seconds"]
    best = {name: _best_arm(name, results) for name in study.quantities}
    rows = []
    for outcome in results:
        cells = [outcome.arm]
        for name in study.quantities:
            cell = _format_estimate(name, outcome.values[name])
            cells.append(f"**{cell}**" if outcome.arm == best[name] else cell)
        for name in study.quantities:
            beside = outcome.differences.get(name)
            cells.append(
                "" if beside is None else _format_estimate(name, beside, is_difference=True)
            )
        rows.append([*cells, f"{outcome.mean_tokens:,.0f}", f"{outcome.mean_seconds:,.0f}"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        [
            *([study.question, ""] if study.question else []),
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            _interval_note(study.seeds),
            "",
        ]
    )


def _interval_note(seeds: Sequence[int]) -> str:
    paired = "the same ones for both arms of a difference"
    if len(seeds) == 1:
        return (
            f"One seed ({seeds[0]}): 95 % intervals draw the held-out rows again, {paired}, and "
            "say nothing of other seeds."
        )
    return (
        f"Means of {len(seeds)} seeds ({', '.join(map(str, seeds))}). 95 % intervals draw the "
        f"held-out rows again, {paired}, and are widened by what the seeds differ (Student's t)."
    )


def csv_rows(study: StudyConfig, results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """The same as lines of a table for programs: one for each arm and quantity."""
    lines = []
    for outcome in results:
        for name in study.quantities:
            value, beside = outcome.values[name], outcome.differences.get(name)
            lines.append(
                {
                    "arm": outcome.arm,
                    "quantity": name,
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "difference": "" if beside is None else beside.value,
                    "difference_low": "" if beside is None else beside.low,
                    "difference_high": "" if beside is None else beside.high,
                    "by_seed": json.dumps(outcome.by_seed[name]),
                    "tokens": outcome.mean_tokens,
                    "seconds": outcome.mean_seconds,
                }
            )
    return lines


def _read_scores(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.heldout_scores.is_file():
        raise UserError(f"{folder.path}: holds out no rows, so there is nothing to compare.")
    return [json.loads(line) for line in folder.heldout_scores.read_text().splitlines()]


def _check_same_rows(scores_by_arm: dict[str, list[list[dict[str, Any]]]]) -> None:
    kinds = {}
    for arm, runs in scores_by_arm.items():
        for run in runs:
            key = tuple((line["place"].rpartition(":")[2], line["scored_tokens"]) for line in run)
            kinds.setdefault(key, arm)
    if len(kinds) > 1:
        raise UserError(
            f"the arms {' and '.join(kinds.values())} were not measured on the same held-out rows: "
            "only arms that share `data.heldout`, `data.length` and the answers can be compared."
        )


def _ratio_terms(name: str, scores_by_seed: list[list[dict[str, Any]]]) -> _RatioTerms:
    """The sums of a quantity and what they are divided by, for each seed and row."""
    column, weight, factor = RATIO_METRICS[name]
    if column not in scores_by_seed[0][0]:
        raise UserError(f"quantities: {name} was not measured in these runs.")
    sums = np.array([[line[column] for line in run] for run in scores_by_seed], float)
    return factor * sums, np.array(
        [[line[weight] for line in run] for run in scores_by_seed], float
    )


def _best_arm(name: str, results: Sequence[ArmResult]) -> str:
    sign = -1 if QUANTITIES[name].better == "more" else 1
    return min(results, key=lambda outcome: sign * outcome.values[name].value).arm


def _format_estimate(name: str, estimate: Estimate, *, is_difference: bool = False) -> str:
    write = QUANTITIES[name].format
    value, low, high = (write(x) for x in (estimate.value, estimate.low, estimate.high))
    text = f"{'+' if is_difference and estimate.value > 0 else ''}{value} [{low}, {high}]"
    return text.replace(" %", " points") if is_difference else text  # percentages differ by points
