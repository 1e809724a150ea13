"""Base class of hybrid objectives: shared tokens by probability, others by sorted probability."""

from abc import abstractmethod
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.losses import BoundedValue
from jaxdistill.objectives.base import LogProbs
from jaxdistill.objectives.sorted_difference import SortedDifference
from jaxdistill.objectives.token_distribution import TokenDistribution

_MIN_UNSHARED_WEIGHT = 1e-6
"""Least weight of the unshared part by which `max_bound` is divided."""


@configclass
class HybridObjective(SortedDifference):
    """w · Jensen–Shannon of shared tokens + (1 − w) · sorted difference of the others.

    Attributes:
        beta: β of the Jensen–Shannon divergence. At its ends it would be a KL divergence, which is
            not least where parts of distributions are equal.
        shared: w. `mass`: the teacher's probability of shared tokens, at each position;
            `vocabulary`: the share of the teacher's tokens that are shared, as in TRL; or a
            number.
        average: Unit of equal weight: `rows` for the example, `groups` for the span.
    """

    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    shared: Literal["mass", "vocabulary"] | Annotated[float, Field(ge=0, le=1)] = "mass"
    average: Literal["groups", "rows"] = "rows"

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Spans of equal bytes."""
        return AlignmentRule("spans", self.average)

    @property
    def needs_span_prefix(self) -> bool:
        """True: spans may have several tokens."""
        return True

    @abstractmethod
    def _shared_log_probs(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        """Log-probabilities of what both models share, in nats."""

    @abstractmethod
    def _is_shared(self, distribution: TokenDistribution) -> Bool[Array, "1 V"]:
        """Return which tokens of a model are part of what both share."""

    def _bounded(self, student: TokenDistribution, teacher: TokenDistribution) -> BoundedValue:
        shared = losses.jensen_shannon(*self._shared_log_probs(student, teacher), beta=self.beta)
        weight = self._shared_weight(teacher)
        max_error = self._max_error(teacher) / jnp.maximum(1 - weight, _MIN_UNSHARED_WEIGHT)
        p, q = self._unshared_probs(teacher), self._unshared_probs(student)
        unshared = self._sorted_difference(p, q, max_error)
        return BoundedValue(
            weight * shared + (1 - weight) * unshared.value, (1 - weight) * unshared.max_error
        )

    def _unshared_probs(self, distribution: TokenDistribution) -> Float32[Array, "R V"]:
        """Return the probabilities of a model's tokens, and 0 for shared ones."""
        probs = jnp.exp(distribution.joint_log_probs())
        return jnp.where(self._is_shared(distribution), 0, probs)

    def _shared_weight(self, teacher: TokenDistribution) -> Float32[Array, "..."]:
        is_shared = self._is_shared(teacher)
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            vocab_size = jnp.isfinite(teacher.logits).sum(axis=-1)
            return is_shared.sum() / vocab_size.astype(jnp.float32)
        mass = jnp.where(is_shared, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))
