"""Universal Logit Distillation: sorted probabilities beside each other, whatever words they are of.

Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for
LLMs", 2024, https://arxiv.org/abs/2402.12030.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowFunction, RowLogits, RowObjective


@OBJECTIVES.register
@configclass
class ULD(RowObjective):
    """Σ |p₍ᵢ₎ − q₍ᵢ₎|, with the i-th largest of both sides beside each other; between 0 and 2.

    It does not see which words are likely, only how likely the likeliest are: give it
    `cross_entropy` for company.

    Args:
        align: `positions` compares the n-th token of both answers, as the paper does; `spans`
            compares groups of tokens that stand for the same text.
        average: Whether every row counts the same, as in the paper, or every group.
        k: Look only at so many of the likeliest words; null sorts all. It gives the least that the
            sum over all words can be, and `uld_bound` says by how much that may be too little.
    """

    type: Literal["uld"] = "uld"
    align: Literal["positions", "spans"] = "positions"
    average: Literal["groups", "rows"] = "rows"
    k: Annotated[int, Field(gt=0)] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @property
    def alignment(self) -> Alignment:
        """As `align` and `average` say."""
        return Alignment(self.align, self.average)

    @property
    def merges(self) -> bool:
        """Groups may be of several tokens."""
        return self.align == "spans"

    @property
    def watched(self) -> Mapping[str, RowFunction]:
        """By how much the value may be too little, where only a part is looked at."""
        return {} if self.k is None else {"uld_bound": self._bound}

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """The difference, or the least that it can be."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        p, q = jnp.exp(teacher.merged_log_probs()), jnp.exp(student.merged_log_probs())
        if self.k is None:
            return losses.sorted_difference(p, q)
        return losses.sorted_difference_of_top(p, q, k=self.k)[0]

    def _bound(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        assert self.k is not None, "a sum over all words has no error"
        p, q = jnp.exp(teacher.merged_log_probs()), jnp.exp(student.merged_log_probs())
        return losses.sorted_difference_of_top(p, q, k=self.k)[1]
