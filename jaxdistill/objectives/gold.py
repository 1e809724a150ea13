"""GOLD: words that both models know are compared as such, and the others by rank, as in ULD.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits
from jaxdistill.objectives.uld import ByRank

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
    def _partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        """How likely what has a partner is, in nats, the teacher's side first, over one axis."""

    @abstractmethod
    def _have_partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        """Which words do, the teacher's first."""

    def _compare(
        self, student: RowLogits, teacher: RowLogits
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The two parts, weighted, and the bound of the second."""
        matched = losses.jensen_shannon(*self._partners(student, teacher), beta=self.beta)
        weight = self._weight(student, teacher)
        max_error = self._max_error(teacher) / jnp.maximum(1 - weight, _LEAST)
        unmatched, error = self._sorted_difference(*self._rest(student, teacher), max_error)
        return weight * matched + (1 - weight) * unmatched, (1 - weight) * error

    def _rest(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        """The probabilities of the words that have no partner, the teacher's first."""
        theirs, mine = self._have_partners(student, teacher)
        p = jnp.where(theirs, 0, jnp.exp(teacher.merged_log_probs()))
        return p, jnp.where(mine, 0, jnp.exp(student.merged_log_probs()))

    def _weight(self, student: RowLogits, teacher: RowLogits) -> Float32[Array, "..."]:
        has_partner, _ = self._have_partners(student, teacher)
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            num_words = jnp.isfinite(teacher.logits).sum(axis=-1)
            return has_partner.sum() / num_words.astype(jnp.float32)
        mass = jnp.where(has_partner, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))


@OBJECTIVES.register
@configclass
class GOLD(Hybrid):
    """w · Jensen–Shannon of the words that both know + (1 − w) · sorted difference of the others.

    Words of the same bytes are known to both. Unlike TRL's it weights by mass unless told
    otherwise, and compares the ends of answers, too.
    """

    type: Literal["gold"] = "gold"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    def _partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        twins = student.twins[None]
        log_p, log_q = teacher.merged_log_probs(), student.merged_log_probs()
        beside = jnp.where(twins >= 0, log_p[:, jnp.maximum(twins[0], 0)], -jnp.inf)
        return beside, jnp.where(twins >= 0, log_q, -jnp.inf)

    def _have_partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        return teacher.twins[None] >= 0, student.twins[None] >= 0
