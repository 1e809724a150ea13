"""GOLD: compare tokens that both vocabularies have by probability, and the others as ULD does.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule, ComparedTokens
from jaxdistill.config import configclass
from jaxdistill.losses import BoundedValue
from jaxdistill.objectives.base import OBJECTIVES, LogProbs
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import TokenDistribution
from jaxdistill.objectives.uld import SortedDifference

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

    compare_at: ClassVar[ComparedTokens] = "last_token"

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Spans of equal bytes."""
        return AlignmentRule("spans", self.average, self.compare_at)

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


@OBJECTIVES.register
@configclass
class GOLD(HybridObjective):
    """w · Jensen–Shannon of tokens of equal bytes + (1 − w) · sorted difference of the others.

    Unlike TRL's, it weights by mass unless `shared` is set, and it compares the tokens that end
    completions, too.
    """

    type: Literal["gold"] = "gold"

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS, vocab_tables=frozenset({"exact_match"}))

    def _shared_log_probs(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        matches = student.table("exact_match")[None]
        log_p, log_q = teacher.joint_log_probs(), student.joint_log_probs()
        log_p = jnp.where(matches >= 0, log_p[:, jnp.maximum(matches[0], 0)], -jnp.inf)
        return log_p, jnp.where(matches >= 0, log_q, -jnp.inf)

    def _is_shared(self, distribution: TokenDistribution) -> Bool[Array, "1 V"]:
        return distribution.table("exact_match")[None] >= 0
