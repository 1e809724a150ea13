"""Bridges between hidden states of unlike widths."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxdistill.objectives.calibration import CalibrationData, fit_linear, principal_subspace
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.types import Params

Bridge = Literal["learned", "none", "selected", "pca"]
"""Treatment of unlike widths."""

Compared = tuple[Float[Array, "B T X"], Float[Array, "B T X"]]
"""Student's and teacher's hidden states in one space."""


def init_learned(key: Array, student_width: int, teacher_width: int) -> Params:
    """Initialise a learned map of the student's space: orthogonal, or the identity."""
    kernel = jnp.eye(student_width)
    if student_width != teacher_width:
        kernel = jax.nn.initializers.orthogonal()(key, (student_width, teacher_width))
    return {"kernel": kernel, "bias": jnp.zeros(teacher_width)}


def learned(student: Array, teacher: Array, modules: Params, frozen: Params) -> Compared:
    """Map the student's hidden states into the teacher's space."""
    del frozen
    return _affine(student, modules["kernel"], modules["bias"]), teacher


def none(student: Array, teacher: Array, modules: Params, frozen: Params) -> Compared:
    """Compare hidden states of one width as they are."""
    del modules, frozen
    return student, teacher


def selected(student: Array, teacher: Array, modules: Params, frozen: Params) -> Compared:
    """Compare with the selected dimensions of the teacher."""
    del modules
    return student, teacher[..., frozen["dimensions"]]


def pca(student: Array, teacher: Array, modules: Params, frozen: Params) -> Compared:
    """Compare in the teacher's principal subspace."""
    del modules
    return (
        _project(student, frozen["student_mean"], frozen["student_kernel"]),
        _project(teacher, frozen["teacher_mean"], frozen["teacher_kernel"]),
    )


BRIDGES: Mapping[Bridge, Callable[[Array, Array, Params, Params], Compared]] = {
    "learned": learned,
    "none": none,
    "selected": selected,
    "pca": pca,
}


def fit_selected(data: CalibrationData, student_layer: int, teacher_layer: int) -> dict[str, Any]:
    """Select as many of the teacher's dimensions as the student has, the most relevant ones.

    As in Flex-KD, https://arxiv.org/abs/2507.10155, by a gradient-based relevance.
    """
    width = data.student[student_layer].shape[1]
    order = np.argsort(-data.relevance[teacher_layer], kind="stable")
    return {"dimensions": np.sort(order[:width]).astype(np.int32)}


def fit_pca(
    data: CalibrationData, student_layer: int, teacher_layer: int, rank: int
) -> dict[str, Any]:
    """Fit the teacher's principal subspace, and the student's linear map into it.

    Its rank is at most the smaller width, and less than the number of positions.
    """
    inputs, features = data.student[student_layer], data.teacher[teacher_layer]
    widths = inputs.shape[1], features.shape[1]
    basis, mean = principal_subspace(features, min(rank, *widths, len(features) - 1))
    kernel, _ = fit_linear(inputs, (features - mean) @ basis)
    arrays = {
        "student_mean": inputs.mean(axis=0),
        "student_kernel": kernel,
        "teacher_mean": mean,
        "teacher_kernel": basis,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def pca_shapes(student: int, teacher: int, rank: int) -> Params:
    """Return the shapes of the arrays that `fit_pca` fits to two widths on enough positions."""
    rank = min(rank, student, teacher)
    shapes = {
        "student_mean": (student,),
        "student_kernel": (student, rank),
        "teacher_mean": (teacher,),
        "teacher_kernel": (teacher, rank),
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def _project(x: Float[Array, "B T X"], mean: Array, kernel: Array) -> Float32[Array, "B T Y"]:
    # A few dimensions have large means: projected in 16 bits, their rounding would be an offset.
    centred = (x.astype(jnp.float32) - mean[None, None]).astype(x.dtype)
    return einsum_float32("btx,xy->bty", centred, kernel.astype(x.dtype))


def _affine(x: Float[Array, "B T X"], kernel: Array, bias: Array) -> Float32[Array, "B T Y"]:
    return einsum_float32("btx,xy->bty", x, kernel.astype(x.dtype)) + bias[None, None]
