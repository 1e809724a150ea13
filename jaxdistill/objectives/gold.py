"""GOLD: words that both models know are compared as such, and the others by rank, as in ULD.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits, RowObjective


@OBJECTIVES.register
@configclass
class GOLD(RowObjective):
    """w · Jensen–Shannon of the words of the same bytes + (1 − w) · sorted difference of the rest.

    Args:
        beta: Of the Jensen–Shannon divergence: 0 is forward KL, 1 reverse KL.
        shared: w. `mass`: the probability that the teacher gives to words which the student knows,
            row by row; `vocabulary`: the share of its words that they are, as in TRL; or a number.
        average: Whether every row counts the same, or every group of tokens.
        k: Of the rest look only at so many of the likeliest words; null sorts all.
    """

    type: Literal["gold"] = "gold"
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    shared: Literal["mass", "vocabulary"] | Annotated[float, Field(ge=0, le=1)] = "mass"
    average: Literal["groups", "rows"] = "rows"
    k: Annotated[int, Field(gt=0)] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    @property
    def alignment(self) -> Alignment:
        """Groups of tokens that stand for the same text."""
        return Alignment("spans", self.average)

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """The two parts, weighted."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        twins, is_known = student.twins[None], teacher.twins[None] >= 0
        log_p, log_q = teacher.merged_log_probs(), student.merged_log_probs()
        beside = jnp.where(twins >= 0, log_p[:, jnp.maximum(twins[0], 0)], -jnp.inf)
        matched = losses.jensen_shannon(
            beside, jnp.where(twins >= 0, log_q, -jnp.inf), beta=self.beta
        )
        rest = jnp.where(is_known, 0, jnp.exp(log_p)), jnp.where(twins >= 0, 0, jnp.exp(log_q))
        if self.k is None:
            unmatched = losses.sorted_difference(*rest)
        else:
            unmatched = losses.sorted_difference_of_top(*rest, k=self.k)[0]
        weight = self._weight(teacher, is_known)
        return weight * matched + (1 - weight) * unmatched

    def _weight(self, teacher: RowLogits, is_known: Bool[Array, "1 V"]) -> Float32[Array, "..."]:
        if isinstance(self.shared, float):
            return jnp.float32(self.shared)
        if self.shared == "vocabulary":
            num_words = jnp.isfinite(teacher.logits).sum(axis=-1)
            return is_known.sum() / num_words.astype(jnp.float32)
        mass = jnp.where(is_known, jnp.exp(teacher.log_probs()), 0)
        return jax.lax.stop_gradient(mass.sum(axis=-1))
