"""Hybrid: what has a partner in the other vocabulary is compared with it, and the rest by rank."""

from abc import abstractmethod
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import TokenDistribution
from jaxdistill.objectives.sorted_difference import SortedDifference

_MIN_UNMATCHED_WEIGHT = 1e-6
"""What the second part weighs at least when its error is weighed."""


@configclass
class HybridObjective(SortedDifference):
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
    def alignment_rule(self) -> AlignmentRule:
        """Groups of tokens that stand for the same text."""
        return AlignmentRule("spans", self.average)

    @property
    def needs_span_prefix(self) -> bool:
        """Groups may be of several tokens."""
        return True

    @abstractmethod
    def _matched_log_probs(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        """How likely what has a partner is, in nats: to the teacher and to the student."""

    @abstractmethod
    def _is_matched(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        """Which words do: the teacher's and the student's."""

    def _values_and_bounds(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The two parts, weighted, and the bound of the second."""
        matched = losses.jensen_shannon(*self._matched_log_probs(teacher, student), beta=self.beta)
        weight = self._matched_weight(teacher, student)
        max_error = self._max_error(teacher) / jnp.maximum(1 - weight, _MIN_UNMATCHED_WEIGHT)
        unmatched, error = self._sorted_difference(
            *self._unmatched_probs(teacher, student), max_error
        )
        return weight * matched + (1 - weight) * unmatched, (1 - weight) * error

    def _unmatched_probs(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        """The probabilities of the words that have no partner: the teacher's and the student's."""
        theirs, mine = self._is_matched(teacher, student)
        p = jnp.where(theirs, 0, jnp.exp(teacher.joint_log_probs()))
        return p, jnp.where(mine, 0, jnp.exp(student.joint_log_probs()))

    def _matched_weight(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> Float32[Array, "..."]:
        has_partner, _ = self._is_matched(teacher, student)
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            num_words = jnp.isfinite(teacher.logits).sum(axis=-1)
            return has_partner.sum() / num_words.astype(jnp.float32)
        mass = jnp.where(has_partner, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))
