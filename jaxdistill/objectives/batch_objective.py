"""Whole batches: methods that see all places together, most of them with modules of their own.

Modules learn beside the student and never leave the run.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.objectives.base import Objective, PositionObjective, objective_names
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.types import Batch, HiddenSignal, Params

ObjectiveSum = Callable[
    [PositionObjective, HiddenSignal, HiddenSignal | None, Batch], Float32[Array, ""]
]
"""The sum of a row objective's values over the scored places of a batch: `(objective, student,
teacher if it needs one, batch)`. It is the wall's: gradients reach what stands as the student."""


@dataclass(frozen=True)
class VocabEngine:
    """How whatever has a vocabulary axis is looked at.

    Attributes:
        compare: The way to the wall.
        num_shards: How many devices hold a piece of the batch.
        chunk_rows: How many places of each piece are projected at a time.
    """

    objective_sum: ObjectiveSum
    num_shards: int
    chunk_size: int


@configclass
class BatchObjective(Objective):
    """A method that sees all places of a batch together.

    What has a vocabulary axis it leaves to the wall.
    """

    term_names: ClassVar[tuple[str, ...]]
    """What its loss is the sum of, by the names under which that is recorded."""

    @abstractmethod
    def denominators(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """How much of a batch each part is about: what its sum is divided by."""

    @abstractmethod
    def sums(
        self,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal,
        batch: Batch,
        engine: VocabEngine,
    ) -> dict[str, Float32[Array, ""]]:
        """The sum of each part over a batch.

        Args:
            modules: What it learns, if anything.
            student: What the student says of its places.
            teacher: What the teacher says of what it reads: the batch, or its `pairing.teacher`.
            batch: What they read. Only what counts there may count.
            walk: The way to the wall.
        """


@configclass
class TrainableObjective(BatchObjective):
    """A method that learns something itself: a projection, or attention between two models.

    Args:
        learning_rate_scale: What the optimizer's learning rate is multiplied by for its modules.
    """

    learning_rate_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @abstractmethod
    def init(self, key: Array, student_dim: int, teacher_dim: int) -> Params:
        """Fresh modules for models whose hidden states are so wide."""


def init_modules(
    objectives: Sequence[Objective], seed: int, student_dim: int, teacher_dim: int
) -> dict[str, Params]:
    """The fresh modules of each objective that has some, by its name."""
    named = enumerate(zip(objective_names(objectives), objectives, strict=True))
    return {
        name: one.init(jax.random.fold_in(jax.random.key(seed), number), student_dim, teacher_dim)
        for number, (name, one) in named
        if isinstance(one, TrainableObjective)
    }


def learning_rate_scales(objectives: Sequence[Objective]) -> dict[str, float]:
    """What the learning rate of each of these is multiplied by, by the objective's name."""
    named = zip(objective_names(objectives), objectives, strict=True)
    return {
        name: one.learning_rate_scale for name, one in named if isinstance(one, TrainableObjective)
    }


def init_linear(key: Array, in_dim: int, out_dim: int) -> Params:
    """A matrix and a bias, uniform within ±1/√inputs as PyTorch draws them."""
    bound = in_dim**-0.5
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (in_dim, out_dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (out_dim,), minval=-bound, maxval=bound),
    }


def linear(module: Params, x: Float[Array, "B T X"]) -> Float32[Array, "B T Y"]:
    """`x @ kernel + bias`."""
    product = einsum_float32("btx,xy->bty", x, module["kernel"].astype(x.dtype))
    return product + jnp.asarray(module["bias"], jnp.float32)[None, None]


def zero_unscored(vectors: Float[Array, "B T D"], batch: Batch) -> Float[Array, "B T D"]:
    """Zeros in the places that do not count, whatever stood there."""
    return jnp.where(jnp.asarray(batch.loss_mask)[..., None] != 0, vectors, 0)
