"""Modules that objectives train beside the student; they are not part of the exported model."""

from abc import abstractmethod
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import Objective, Positive, objective_names
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, Params


@configclass
class TrainableObjective(Objective):
    """An objective with trainable modules: projections, or attention between two models.

    Attributes:
        learning_rate_scale: Factor of the optimizer's learning rate for the modules.
    """

    learning_rate_scale: Positive = 1.0

    @abstractmethod
    def init(self, key: Array, student: Widths, teacher: Widths) -> Params:
        """Initialise the modules for models of these sizes."""


def init_modules(
    objectives: Sequence[Objective], seed: int, student: Widths, teacher: Widths
) -> dict[str, Params]:
    """Initialise the modules of each trainable objective, by its name."""
    key = jax.random.key(seed)
    modules = {
        name: objective.init(jax.random.fold_in(key, index), student, teacher)
        for name, (index, objective) in _trainable(objectives).items()
    }
    return {name: own for name, own in modules.items() if own}


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
