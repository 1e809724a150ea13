"""Similarity of two models' representations, by pairs of layers."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float


def linear_cka(
    first: Mapping[int, Float[np.ndarray, "N D"]], second: Mapping[int, Float[np.ndarray, "N X"]]
) -> Float[np.ndarray, "rows columns"]:
    """Compute linear CKA, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features, for each pair of layers.

    It is between 0 and 1, and unchanged by rotation and scaling of a layer. All features are of the
    same N positions; with fewer positions than dimensions it is too large.

    Reference: Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019,
    https://arxiv.org/abs/1905.00414.
    """
    rows, columns = (
        [side[layer] - side[layer].mean(axis=0) for layer in sorted(side)]
        for side in (first, second)
    )
    own, other = (np.array([np.linalg.norm(x.T @ x) for x in side]) for side in (rows, columns))
    cross = np.array([[np.square(y.T @ x).sum() for y in columns] for x in rows])
    return cross / np.maximum(np.outer(own, other), np.finfo(np.float32).tiny)
