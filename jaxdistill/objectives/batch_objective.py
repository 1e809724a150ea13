"""Base classes of objectives over whole batches, and the modules that some of them train.

Modules are trained beside the student and are not part of the exported model.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import Objective, Positive, objective_names
from jaxdistill.objectives.engine import VocabEngine
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.types import Batch, HiddenSignal, Params


@configclass
class BatchObjective(Objective):
    """An objective that reads all positions of a batch together."""

    term_names: ClassVar[tuple[str, ...]]
    """Names of the terms whose sum is the loss, as in metrics."""

    @abstractmethod
    def denominators(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """Return the divisor of each term's sum."""

    @abstractmethod
    def sums(
        self,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal,
        batch: Batch,
        engine: VocabEngine,
    ) -> dict[str, Float32[Array, ""]]:
        """Compute the sum of each term over a batch.

        `modules` are empty unless the objective is trainable. The teacher's signal is for `batch`,
        or for `batch.alignment.teacher`. Positions whose loss mask is 0 must not change the sums.
        """


@configclass
class TrainableObjective(BatchObjective):
    """An objective with trainable modules: projections, or attention between two models.

    Attributes:
        learning_rate_scale: Factor of the optimizer's learning rate for the modules.
    """

    learning_rate_scale: Positive = 1.0

    @abstractmethod
    def init(self, key: Array, student_dim: int, teacher_dim: int) -> Params:
        """Initialise the modules for models with hidden states of these sizes."""


def init_modules(
    objectives: Sequence[Objective], seed: int, student_dim: int, teacher_dim: int
) -> dict[str, Params]:
    """Initialise the modules of each trainable objective, by its name."""
    key = jax.random.key(seed)
    return {
        name: objective.init(jax.random.fold_in(key, index), student_dim, teacher_dim)
        for name, (index, objective) in _trainable(objectives).items()
    }


def learning_rate_scales(objectives: Sequence[Objective]) -> dict[str, float]:
    """Return the learning rate factor of each trainable objective, by its name."""
    return {name: one.learning_rate_scale for name, (_, one) in _trainable(objectives).items()}


def _trainable(objectives: Sequence[Objective]) -> dict[str, tuple[int, TrainableObjective]]:
    """Return the index in `objectives` and each trainable objective, by its name."""
    named = zip(objective_names(objectives), enumerate(objectives), strict=True)
    return {n: (index, one) for n, (index, one) in named if isinstance(one, TrainableObjective)}


def init_linear(key: Array, in_dim: int, out_dim: int) -> Params:
    """Initialise a matrix and a bias, uniform within ±1/√in_dim as in PyTorch."""
    bound = in_dim**-0.5
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (in_dim, out_dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (out_dim,), minval=-bound, maxval=bound),
    }


def linear(module: Params, x: Float[Array, "B T X"]) -> Float32[Array, "B T Y"]:
    """Compute `x @ kernel + bias`."""
    product = einsum_float32("btx,xy->bty", x, module["kernel"].astype(x.dtype))
    return product + jnp.asarray(module["bias"], jnp.float32)[None, None]


def zero_unscored(vectors: Float[Array, "B T D"], batch: Batch) -> Float[Array, "B T D"]:
    """Replace the vectors at positions whose loss mask is 0 by zeros, NaN included."""
    return jnp.where(jnp.asarray(batch.loss_mask)[..., None] != 0, vectors, 0)
