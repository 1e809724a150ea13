"""Hybrid: what has a partner in the other vocabulary is compared with it, and the rest by rank."""

from abc import abstractmethod
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import RowLogits
from jaxdistill.objectives.by_rank import ByRank

_LEAST = 1e-6
"""What the second part weighs at least when its error is weighed."""


@configclass
class Hybrid(ByRank):
    """w · Jensen–Shannon of what has a partner + (1 − w) · sorted difference of the rest.

    Args:
        beta: Of the Jensen–Shannon divergence, between 0 and 1. At the ends it would be a KL
            divergence, which is not least where parts of distributions are equal.
        shared: w. `mass`: the probability that the teacher gives to words which have a partner,
            row by row; `vocabulary`: the share of its words that they are, as in TRL; or a number.
        average: Whether every row counts the same, or every group of tokens.
    """

    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    shared: Literal["mass", "vocabulary"] | Annotated[float, Field(ge=0, le=1)] = "mass"
    average: Literal["groups", "rows"] = "rows"

    @property
    def alignment(self) -> Alignment:
        """Groups of tokens that stand for the same text."""
        return Alignment("spans", self.average)

    @property
    def merges(self) -> bool:
        """Groups may be of several tokens."""
        return True

    @abstractmethod
    def _partners(self, teacher: RowLogits, student: RowLogits) -> tuple[Array, Array]:
        """How likely what has a partner is, in nats: to the teacher and to the student."""

    @abstractmethod
    def _have_partners(self, teacher: RowLogits, student: RowLogits) -> tuple[Array, Array]:
        """Which words do: the teacher's and the student's."""

    def _compare(
        self, student: RowLogits, teacher: RowLogits
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The two parts, weighted, and the bound of the second."""
        matched = losses.jensen_shannon(*self._partners(teacher, student), beta=self.beta)
        weight = self._weight(teacher, student)
        max_error = self._max_error(teacher) / jnp.maximum(1 - weight, _LEAST)
        unmatched, error = self._sorted_difference(*self._rest(teacher, student), max_error)
        return weight * matched + (1 - weight) * unmatched, (1 - weight) * error

    def _rest(self, teacher: RowLogits, student: RowLogits) -> tuple[Array, Array]:
        """The probabilities of the words that have no partner: the teacher's and the student's."""
        theirs, mine = self._have_partners(teacher, student)
        p = jnp.where(theirs, 0, jnp.exp(teacher.merged_log_probs()))
        return p, jnp.where(mine, 0, jnp.exp(student.merged_log_probs()))

    def _weight(self, teacher: RowLogits, student: RowLogits) -> Float32[Array, "..."]:
        has_partner, _ = self._have_partners(teacher, student)
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            num_words = jnp.isfinite(teacher.logits).sum(axis=-1)
            return has_partner.sum() / num_words.astype(jnp.float32)
        mass = jnp.where(has_partner, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))
