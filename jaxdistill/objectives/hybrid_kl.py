"""Hybrid KL: GOLD over buckets of tokens that begin with the same text, instead of equal tokens.

After H-KL of "X-Token", NVIDIA, 2026, https://arxiv.org/abs/2605.21699: under GOLD, tokens that
only the student has, such as numbers of several digits, are compared by rank and so unlearned.
"""

from typing import ClassVar, Literal

from jaxtyping import Array, Bool

from jaxdistill.align import ComparedTokens
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, LogProbs
from jaxdistill.objectives.gold import HybridObjective
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import TokenDistribution


@OBJECTIVES.register
@configclass
class HybridKL(HybridObjective):
    """w · Jensen–Shannon over buckets + (1 − w) · sorted difference of tokens outside of them.

    Buckets are those of `projected_kl`: tokens of both vocabularies that begin with the same text.
    So all text is shared, and the others are special tokens that the other model does not have.
    Spans of several tokens are compared at their first tokens, which follow the same text on both
    sides.

    H-KL itself matches a student token with one teacher token, and compares the remaining teacher
    tokens by rank. Where all student tokens are matched, the mass of those would go to the
    student's special tokens: so here both sides are summed per bucket.
    """

    type: Literal["hybrid_kl"] = "hybrid_kl"

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS, vocab_tables=frozenset({"buckets"}))
    compare_at: ClassVar[ComparedTokens] = "first_token"

    def _shared_log_probs(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        log_p, log_q = (
            one.bucket_log_probs(1.0, num_subtokens=1)[:, 1:] for one in (teacher, student)
        )
        return log_p, log_q

    def _is_shared(self, distribution: TokenDistribution) -> Bool[Array, "1 V"]:
        return distribution.table("buckets")[None, :, 0] > 0
