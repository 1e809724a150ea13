"""Approximate Likelihood Matching (ALM): both models give each span of text the same likelihood.

Minixhofer et al., "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
2025, https://arxiv.org/abs/2503.20083.
"""

import math
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, Positive
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, TokenDistribution


@OBJECTIVES.register
@configclass
class ALM(PositionObjective):
    """Binary cross-entropy of the likelihood of each span, p^(1/τ) against q^(1/τ), in nats.

    It compares the likelihood of the text that is there, and of no other tokens.

    Attributes:
        temperature: τ. The inverse power keeps likelihoods apart that would all be nearly 0.
        debias: Compare the likelihood of the span with white space or a special token after it,
            since after its last token one tokenizer may continue the word where the other cannot.
            Spans with a lower teacher probability of that than this count 0 (1e-4 is usual). The
            last span of an example is compared as it is. Null compares the span alone.
    """

    type: Literal["alm"] = "alm"
    temperature: Positive = 100.0
    debias: Annotated[float, Field(gt=0, lt=1)] | None = None

    needs: ClassVar[Needs] = Needs(labels=True, teacher=TEACHER_LOGITS)
    stationary_at_equality: ClassVar[bool] = True
    alignment: ClassVar[AlignmentRule] = AlignmentRule("spans")

    @property
    def vocab_needs(self) -> frozenset[str]:
        """Word boundaries, for `debias`."""
        return frozenset() if self.debias is None else frozenset({"word_boundaries"})

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the binary cross-entropy, which at equality is the teacher's entropy."""
        assert teacher is not None, "needs teacher logits"
        log_p, log_q = teacher.span_log_probs(), student.span_log_probs()
        if self.debias is None:
            return losses.binary_cross_entropy(log_p, log_q, temperature=self.temperature)
        p_boundary, q_boundary = teacher.span_boundary_log_probs, student.span_boundary_log_probs
        assert p_boundary is not None, "needs word boundaries"
        assert q_boundary is not None, "needs word boundaries"
        values = losses.binary_cross_entropy(
            log_p + p_boundary, log_q + q_boundary, temperature=self.temperature
        )
        return jnp.where(p_boundary >= math.log(self.debias), values, 0)
