"""GOLD: words that both models know are compared as such, and the others by rank, as in ULD.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowFunction, RowLogits, RowObjective


@OBJECTIVES.register
@configclass
class GOLD(RowObjective):
    """w · Jensen–Shannon of the words of the same bytes + (1 − w) · sorted difference of the rest.

    Args:
        beta: Of the Jensen–Shannon divergence, between 0 and 1. At the ends it would be a KL
            divergence, which is not least where parts of distributions are equal.
        shared: w. `mass`: the probability that the teacher gives to words which the student knows,
            row by row; `vocabulary`: the share of its words that they are, as in TRL; or a number.
        average: Whether every row counts the same, or every group of tokens.
        k: Of the rest look only at so many of the likeliest words; null sorts all. `gold_bound`
            says by how much the value may be too little.

    Unlike TRL's it weights by mass unless told otherwise, and compares the ends of answers, too.
    """

    type: Literal["gold"] = "gold"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    shared: Literal["mass", "vocabulary"] | Annotated[float, Field(ge=0, le=1)] = "mass"
    average: Literal["groups", "rows"] = "rows"
    k: Annotated[int, Field(gt=0)] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    @property
    def alignment(self) -> Alignment:
        """Groups of tokens that stand for the same text."""
        return Alignment("spans", self.average)

    @property
    def merges(self) -> bool:
        """Groups may be of several tokens."""
        return True

    @property
    def watched(self) -> Mapping[str, RowFunction]:
        """By how much the value may be too little, where only a part is looked at."""
        return {} if self.k is None else {"gold_bound": self._bound}

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """The two parts, weighted."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        twins = student.twins[None]
        log_p, log_q = teacher.merged_log_probs(), student.merged_log_probs()
        beside = jnp.where(twins >= 0, log_p[:, jnp.maximum(twins[0], 0)], -jnp.inf)
        matched = losses.jensen_shannon(
            beside, jnp.where(twins >= 0, log_q, -jnp.inf), beta=self.beta
        )
        if self.k is None:
            unmatched = losses.sorted_difference(*self._rest(student, teacher))
        else:
            unmatched = losses.sorted_difference_of_top(*self._rest(student, teacher), k=self.k)[0]
        weight = self._weight(teacher)
        return weight * matched + (1 - weight) * unmatched

    def _bound(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        assert self.k is not None, "a sum over all words has no error"
        error = losses.sorted_difference_of_top(*self._rest(student, teacher), k=self.k)[1]
        return (1 - self._weight(teacher)) * error

    @staticmethod
    def _rest(student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        """The probabilities of the words that only one side knows, the teacher's first."""
        p, q = (
            jnp.where(side.twins[None] >= 0, 0, jnp.exp(side.merged_log_probs()))
            for side in (teacher, student)
        )
        return p, q

    def _weight(self, teacher: RowLogits) -> Float32[Array, "..."]:
        is_known = teacher.twins[None] >= 0
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            num_words = jnp.isfinite(teacher.logits).sum(axis=-1)
            return is_known.sum() / num_words.astype(jnp.float32)
        mass = jnp.where(is_known, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))
