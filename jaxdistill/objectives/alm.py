"""Approximate Likelihood Matching: both models find the same stretch of text equally likely.

Minixhofer et al., "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
2025, https://arxiv.org/abs/2503.20083.
"""

import math
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, TokenDistribution


@OBJECTIVES.register
@configclass
class ALM(PositionObjective):
    """The binary cross-entropy of how likely a group of tokens is, by the student and the teacher.

    It looks at the words that are there and at no others.

    Args:
        temperature: Likelihoods are taken to the power of its inverse, which keeps apart what
            would all be nearly 0.
        debias: Compare how likely the text is with white space or a mark behind it: behind its last
            token one side may go on within the word where the other cannot. Groups behind which
            the teacher finds that less likely than this count 0 (1e-4 is usual); the last of a row
            is compared as it is. Null compares the text alone.
    """

    type: Literal["alm"] = "alm"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0
    debias: Annotated[float, Field(gt=0, lt=1)] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "labels"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Groups that stand for the same text."""
        return AlignmentRule("spans")

    @property
    def vocab_needs(self) -> frozenset[str]:
        """Where words may begin, to be asked behind each group."""
        return frozenset() if self.debias is None else frozenset({"boundaries"})

    @property
    def needs_span_prefix(self) -> bool:
        """Groups may be of several tokens."""
        return True

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """How far the two are apart, plus the entropy of the teacher's side."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        log_p, log_q = teacher.span_log_probs(), student.span_log_probs()
        if self.debias is None:
            return losses.binary_cross_entropy(log_p, log_q, temperature=self.temperature)
        assert teacher.span_boundary_log_probs is not None, (
            "the run asks for whom looks boundaries up"
        )
        assert student.span_boundary_log_probs is not None, (
            "the run asks for whom looks boundaries up"
        )
        log_p, log_q = (
            log_p + teacher.span_boundary_log_probs,
            log_q + student.span_boundary_log_probs,
        )
        values = losses.binary_cross_entropy(log_p, log_q, temperature=self.temperature)
        return jnp.where(teacher.span_boundary_log_probs >= math.log(self.debias), values, 0)
