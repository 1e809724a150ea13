"""Calibration: what an objective takes from both models' features before training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdistill.objectives.layer_map import LayerPairs
from jaxdistill.taps import Taps

_RIDGE = 1e-3
"""Ridge of linear maps, relative to the mean variance of their inputs."""
_SEARCH_RIDGES = (1e-2, 1e-1, 1.0, 10.0)
_TINY = float(np.finfo(np.float32).tiny)
_CONSTANT = 1e-6
"""Deviation of a dimension, as a share of its largest size, that is rounding."""


@dataclass(frozen=True)
class CalibrationRequest:
    """Inputs of an objective's calibration.

    Attributes:
        student: Hidden states of the student.
        teacher: Hidden states of the teacher.
        relevance: Layers of the teacher whose dimensions' relevance is read.
        num_examples: Number of training examples, from the first.
    """

    student: Taps
    teacher: Taps
    relevance: tuple[int, ...]
    num_examples: int


@dataclass(frozen=True)
class CalibrationData:
    """Features of both models at the same positions, by layer.

    Attributes:
        student: Hidden states of the student.
        teacher: Hidden states of the teacher.
        relevance: Relevance of each dimension of the teacher's layer: the mean over positions of
            |h · ∂(-log p(label))/∂h|.
    """

    student: Mapping[int, Float[np.ndarray, "N D"]]
    teacher: Mapping[int, Float[np.ndarray, "N X"]]
    relevance: Mapping[int, Float[np.ndarray, " X"]] = field(default_factory=dict)


class LayerScores(NamedTuple):
    """Scores of linear maps from each of the teacher's layers to the student's layers.

    Attributes:
        student_layers: Layers of the student, one row each.
        teacher_layers: Layers of the teacher, one column each.
        scores: Explained share of the student's variance, on positions that were not fitted; 0 or
            less where the teacher's layer says nothing of it.
        pairs: The pairs that were chosen.
    """

    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    pairs: LayerPairs

    @property
    def best(self) -> dict[tuple[int, int], float]:
        """Score of each pair that was chosen."""
        rows = dict(zip(self.student_layers, self.scores, strict=True))
        return {(s, t): rows[s][self.teacher_layers.index(t)] for s, t in self.pairs}


class Calibrated(NamedTuple):
    """An objective after its calibration, its frozen arrays, and the scores of a search."""

    objective: Any
    frozen: dict[str, Any]
    scores: LayerScores | None


def search_pairs(data: CalibrationData) -> LayerScores:
    """Pair each layer of the student with one of the teacher, in ascending order.

    The pairs have the largest sum of scores.
    """
    student_layers, teacher_layers = tuple(sorted(data.student)), tuple(sorted(data.teacher))
    scores = np.stack(
        [
            _explained_shares(data.teacher[layer], [data.student[own] for own in student_layers])
            for layer in teacher_layers
        ],
        axis=1,
    )
    chosen = _best_ascending(scores)
    pairs = tuple(
        (layer, teacher_layers[index]) for layer, index in zip(student_layers, chosen, strict=True)
    )
    return LayerScores(
        student_layers, teacher_layers, tuple(tuple(row) for row in scores.tolist()), pairs
    )


def _explained_shares(
    inputs: Float[np.ndarray, "N X"], targets: Sequence[Float[np.ndarray, "N Y"]]
) -> Float[np.ndarray, " targets"]:
    """Return the share of each target's variance that ridge regression predicts.

    The first half of the positions is fitted and the second scored: of other examples, but for the
    one in the middle. Dimensions are standardised first: in language models a few of them have most
    of the variance. Of several ridges the best one counts.
    """
    half = len(inputs) // 2
    sizes = np.cumsum([target.shape[1] for target in targets])[:-1]
    x, y = (_standardize(array, half) for array in (inputs, np.concatenate(targets, axis=1)))
    eigenvalues, vectors = np.linalg.eigh(x[:half].T @ x[:half])
    projected = vectors.T @ (x[:half].T @ y[:half])
    scored, shares = x[half:] @ vectors, []
    for ridge in _SEARCH_RIDGES:
        factors = eigenvalues.clip(min=0) + ridge * eigenvalues.mean() + _TINY
        errors = np.square(y[half:] - scored @ (projected / factors[:, None]))
        variances = np.square(y[half:])
        pairs = zip(
            np.split(errors, sizes, axis=1), np.split(variances, sizes, axis=1), strict=True
        )
        shares.append([1 - error.sum() / max(variance.sum(), _TINY) for error, variance in pairs])
    return np.max(shares, axis=0)


def _standardize(features: Float[np.ndarray, "N D"], size: int) -> Float[np.ndarray, "N D"]:
    """Subtract the mean of the first `size` positions, and divide by their standard deviation.

    Dimensions that are constant there are 0 everywhere: nothing can be fitted to them.
    """
    fitted = features[:size]
    deviation = fitted.std(axis=0)
    is_constant = deviation <= _CONSTANT * np.abs(fitted).max(axis=0)
    scale = np.where(is_constant, 0, 1 / np.where(is_constant, 1, deviation))
    return (features - fitted.mean(axis=0)) * scale


def fit_linear(
    inputs: Float[np.ndarray, "N X"], targets: Float[np.ndarray, "N Y"]
) -> tuple[Float[np.ndarray, "X Y"], Float[np.ndarray, " Y"]]:
    """Fit `targets ≈ inputs @ kernel + bias` by ridge regression."""
    input_mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    centred = inputs - input_mean
    gram = centred.T @ centred
    ridge = _RIDGE * np.trace(gram) / len(gram) + _TINY
    gram[np.diag_indices_from(gram)] += ridge
    kernel = np.linalg.solve(gram, centred.T @ (targets - target_mean))
    return kernel, target_mean - input_mean @ kernel


def principal_subspace(
    features: Float[np.ndarray, "N D"], rank: int
) -> tuple[Float[np.ndarray, "D rank"], Float[np.ndarray, " D"]]:
    """Return the directions of the largest variance as orthonormal columns, and the mean."""
    mean = features.mean(axis=0)
    centred = features - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, ::-1][:, :rank], mean


def _best_ascending(scores: Float[np.ndarray, "rows columns"]) -> Sequence[int]:
    """Choose a column of each row, each after the one before, with the largest sum.

    With fewer columns than rows, a column may be chosen again.
    """
    num_rows, num_columns = scores.shape
    step = int(num_columns >= num_rows)
    best, choices = np.zeros(num_columns + 1), []
    for row in scores:
        # totals[j]: the largest sum with this row at column j.
        totals = row + (best[:-1] if step else best[1:])
        if step and not choices:
            totals = row.copy()
        choices.append(totals)
        best = np.concatenate([[-np.inf], np.maximum.accumulate(totals)])
    result: list[int] = []
    limit = num_columns
    for totals in reversed(choices):
        index = int(np.argmax(totals[:limit]))
        result.append(index)
        limit = index + 1 - step
    return result[::-1]
