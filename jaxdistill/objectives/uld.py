"""Universal Logit Distillation (ULD): compare sorted probabilities, whatever their tokens are.

Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for
LLMs", 2024, https://arxiv.org/abs/2402.12030.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field, model_validator

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.losses import BoundedValue
from jaxdistill.objectives.base import OBJECTIVES, PositionFunction, PositionObjective
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, PerToken, TokenDistribution


@configclass
class SortedDifference(PositionObjective):
    """A comparison of sorted probabilities, whatever tokens they belong to.

    Attributes:
        k: Number of largest probabilities to compare; null sorts all. The value is then the least
            that the sum over all tokens can be. Its largest error is logged as
            `train/<objective>_bound`.
        max_bound: Multiply k by four until no error exceeds this; at 0 all are sorted in the end.
            Positions of one chunk (on a CPU: of a slice of a chunk) share k, so the most uncertain
            position decides. Null keeps `k`.
    """

    k: Annotated[int, Field(gt=0)] | None = None
    max_bound: Annotated[float, Field(ge=0)] | None = None

    zero_at_equality: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_max_bound(self) -> "SortedDifference":
        if self.max_bound is not None and self.k is None:
            raise ValueError(
                "`max_bound` raises `k`, but `k` is null, which sorts all tokens. Set a first `k`, "
                "such as `k: 256`, or leave `max_bound` out."
            )
        return self

    @property
    def diagnostics(self) -> Mapping[str, PositionFunction]:
        """Largest error of the value, where only k probabilities are compared."""
        return {} if self.k is None else {"bound": self._bound}

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the value, or the least that it can be."""
        return self._memoised_value(student, teacher).value

    def _bound(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        return self._memoised_value(student, teacher).max_error

    @abstractmethod
    def _bounded(self, student: TokenDistribution, teacher: TokenDistribution) -> BoundedValue:
        """Compute the value and its largest error."""

    def _memoised_value(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> BoundedValue:
        assert teacher is not None, "needs teacher logits"
        return student.memoise(self, lambda: self._bounded(student, teacher))

    def _sorted_difference(
        self, p: PerToken, q: Float32[Array, "R W"], max_error: PerPosition
    ) -> BoundedValue:
        """Compute the sorted difference, of k probabilities or of enough for `max_error`."""
        if self.k is None:
            return BoundedValue(losses.sorted_difference(p, q), jnp.zeros_like(max_error))
        if self.max_bound is None:
            return losses.sorted_difference_top_k(p, q, k=self.k)
        return losses.sorted_difference_adaptive(p, q, k=self.k, max_error=max_error)

    def _max_error(self, teacher: TokenDistribution) -> PerPosition:
        """Return `max_bound` for each position, and infinity for positions without weight."""
        limit = jnp.inf if self.max_bound is None else self.max_bound
        limits = jnp.full(teacher.logits.shape[:1], limit)
        is_scored = teacher.is_scored
        return limits if is_scored is None else jnp.where(is_scored, limits, jnp.inf)


@OBJECTIVES.register
@configclass
class ULD(SortedDifference):
    """Σ |p₍ᵢ₎ − q₍ᵢ₎| over the i-th largest probability of each side, between 0 and 2.

    It compares how likely the likeliest tokens are, not which they are: combine it with
    `cross_entropy`.

    Attributes:
        align: `positions` compares the n-th token of both completions, as its authors do; `spans`
            compares spans of tokens that cover the same bytes. The special token that ends a
            completion is compared, except by `positions` with two tokenizers.
        average: Unit of equal weight: `rows` for the example, as in the authors' code; `groups` for
            the span.
    """

    type: Literal["uld"] = "uld"
    align: Literal["positions", "spans"] = "positions"
    average: Literal["groups", "rows"] = "rows"

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS)

    @property
    def alignment_rule(self) -> AlignmentRule:
        """The rule of `align` and `average`."""
        return AlignmentRule(self.align, self.average)

    def _bounded(self, student: TokenDistribution, teacher: TokenDistribution) -> BoundedValue:
        p, q = jnp.exp(teacher.joint_log_probs()), jnp.exp(student.joint_log_probs())
        return self._sorted_difference(p, q, self._max_error(teacher))
