"""Universal Logit Distillation: sorted probabilities beside each other, whatever words they are of.

Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for
LLMs", 2024, https://arxiv.org/abs/2402.12030.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, TokenDistribution
from jaxdistill.objectives.sorted_difference import SortedDifference


@OBJECTIVES.register
@configclass
class ULD(SortedDifference):
    """Σ |p₍ᵢ₎ − q₍ᵢ₎|, with the i-th largest of both sides beside each other; between 0 and 2.

    It does not see which words are likely, only how likely the likeliest are: give it
    `cross_entropy` for company.

    Args:
        align: `positions` compares the n-th token of both answers, as its authors do; `spans`
            compares groups of tokens that stand for the same text.
        average: Whether every row counts the same, as in its authors' code, or every group.
    """

    type: Literal["uld"] = "uld"
    align: Literal["positions", "spans"] = "positions"
    average: Literal["groups", "rows"] = "rows"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """As `align` and `average` say."""
        return AlignmentRule(self.align, self.average)

    @property
    def needs_span_prefix(self) -> bool:
        """Groups may be of several tokens."""
        return self.align == "spans"

    def _values_and_bounds(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        p, q = jnp.exp(teacher.joint_log_probs()), jnp.exp(student.joint_log_probs())
        return self._sorted_difference(p, q, self._max_error(teacher))
