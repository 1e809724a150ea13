"""What a method is: a value for every row, from the logits that the wall shows it."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int
from pydantic import Field

from jaxdistill.config import Registry, configclass
from jaxdistill.objectives.weight import Weight

OBJECTIVES = Registry("objective", package="jaxdistill.objectives")
"""The methods by their `type`: one file of this package each."""


class RowLogits:
    """One model's logits for a chunk of rows, over the real words of its vocabulary.

    Columns of padding, if there are any, are -inf. Lives inside the wall, for one chunk.
    """

    def __init__(self, logits: Float32[Array, "R V"]):
        self.logits = logits
        self._log_probs: dict[float, Float32[Array, "R V"]] = {}

    def log_probs(self, temperature: float = 1.0) -> Float32[Array, "R V"]:
        """Normalised log-probabilities of `logits / temperature`, in nats."""
        # Kept, so that objectives of one temperature share one softmax, and one gradient of it.
        if temperature not in self._log_probs:
            self._log_probs[temperature] = _log_softmax(self.logits / temperature)
        return self._log_probs[temperature]


def _log_softmax(logits: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    # `jax.nn.log_softmax` subtracts the maximum once and for all. XLA:CPU (of JAX 0.10.2) fuses
    # that with the projection before it, and projects twice: a quarter of the whole walk's time.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
    return logits - (largest + jnp.log(total))


@configclass
class RowObjective(ABC):
    """A method that compares student and teacher row by row.

    Args:
        weight: What its values are multiplied by in the loss: a number, or points
            `[[step, weight], ...]` with straight lines between them.
    """

    weight: Weight = 1.0

    needs: ClassVar[frozenset[str]]
    """What must be there: "teacher_logits", "labels"."""

    @abstractmethod
    def row_values(
        self, student: RowLogits, teacher: RowLogits | None, labels: Int[Array, " R"]
    ) -> Float32[Array, " R"]:
        """One value a row, in nats; nothing is reduced or weighted here."""


@configclass
class Divergence(RowObjective):
    """A method that compares the two distributions over one vocabulary: 0 when they are equal.

    Args:
        temperature: Divides the logits of both sides first. A high one shows more of what the
            teacher thinks of unlikely words.
        scale_by_temperature_squared: Multiply by temperature², which keeps the gradient's size
            when the temperature is raised (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    scale_by_temperature_squared: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @abstractmethod
    def _compare(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        """The divergence of the student's `log_q` from the teacher's `log_p`."""

    def row_values(
        self, student: RowLogits, teacher: RowLogits | None, labels: Int[Array, " R"]
    ) -> Float32[Array, " R"]:
        """The divergence at this temperature."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        log_p, log_q = teacher.log_probs(self.temperature), student.log_probs(self.temperature)
        scale = self.temperature**2 if self.scale_by_temperature_squared else 1.0
        return scale * self._compare(log_p, log_q)
