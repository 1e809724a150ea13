"""Universal Logit Distillation (ULD): compare sorted probabilities, whatever their tokens are.

Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for
LLMs", 2024, https://arxiv.org/abs/2402.12030.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp

from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.losses import BoundedValue
from jaxdistill.objectives.base import OBJECTIVES
from jaxdistill.objectives.sorted_difference import SortedDifference
from jaxdistill.objectives.token_distribution import TokenDistribution


@OBJECTIVES.register
@configclass
class ULD(SortedDifference):
    """Σ |p₍ᵢ₎ − q₍ᵢ₎| over the i-th largest probability of each side, between 0 and 2.

    It compares how likely the likeliest tokens are, not which they are: combine it with
    `cross_entropy`.

    Attributes:
        align: `positions` compares the n-th token of both completions, as its authors do; `spans`
            compares spans of tokens that cover the same bytes.
        average: Unit of equal weight: `rows` for the example, as in the authors' code; `groups` for
            the span.
    """

    type: Literal["uld"] = "uld"
    align: Literal["positions", "spans"] = "positions"
    average: Literal["groups", "rows"] = "rows"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """The rule of `align` and `average`."""
        return AlignmentRule(self.align, self.average)

    @property
    def needs_span_prefix(self) -> bool:
        """True for spans, which may have several tokens."""
        return self.align == "spans"

    def _bounded(self, student: TokenDistribution, teacher: TokenDistribution) -> BoundedValue:
        p, q = jnp.exp(teacher.joint_log_probs()), jnp.exp(student.joint_log_probs())
        return self._sorted_difference(p, q, self._max_error(teacher))
