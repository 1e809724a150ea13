"""Hybrid: as GOLD, where what both sides begin with is what has a partner.

After H-KL of "X-Token", NVIDIA, 2026, https://arxiv.org/abs/2605.21699: under GOLD, words that only
the student has, such as numbers of several digits, are compared by rank and so unlearned.
"""

from typing import ClassVar, Literal

from jaxtyping import Array

from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, TokenDistribution
from jaxdistill.objectives.hybrid_objective import HybridObjective


@OBJECTIVES.register
@configclass
class HybridKL(HybridObjective):
    """w · Jensen–Shannon of what words begin with + (1 − w) · sorted difference of the rest.

    What words begin with has a place in a space that both vocabularies share, as in `projected_kl`.
    So all text has a partner there, and the rest are marks which the other side does not know.
    Groups of several tokens are compared where they begin, for there both have read the same text.

    H-KL itself gives a student's word one of the teacher's words for a partner, and leaves the
    teacher's others to be compared by rank. With the student's words all taken, their mass would be
    asked of the student's marks: so here both sides are summed.
    """

    type: Literal["hybrid_kl"] = "hybrid_kl"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "places"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Groups of tokens that stand for the same text, where they begin."""
        return AlignmentRule("spans", self.average, compare_at="begins")

    @property
    def needs_span_prefix(self) -> bool:
        """Nothing is left out before the place where a group begins."""
        return False

    def _matched_log_probs(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        log_p, log_q = (
            side.bucket_log_probs(1.0, num_subtokens=1)[:, 1:] for side in (teacher, student)
        )
        return log_p, log_q

    def _is_matched(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        return teacher.buckets[None, :, 0] > 0, student.buckets[None, :, 0] > 0
