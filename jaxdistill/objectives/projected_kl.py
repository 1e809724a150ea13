"""Projected KL: words are summed by what they begin with, and nothing stays without a partner.

After P-KL of "X-Token", NVIDIA, 2026, https://arxiv.org/abs/2605.21699.
"""

from typing import Annotated, ClassVar, Literal

from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.align.shared_buckets import MAX_SUBTOKENS
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence, TokenDistribution


@OBJECTIVES.register
@configclass
class ProjectedKL(Divergence):
    """KL(p‖q) between what both models say next, over the beginnings of words that both know.

    Groups of several tokens are compared where they begin, for there both have read the same text.
    A student's word counts as the teacher's word that it would begin with, and a teacher's word
    that no word of the student's leads to counts as what the student would begin it with.

    Args:
        pieces: Over how many of its pieces a student's word is spread, each with half as much as
            the one before. What comes next is the first; more of them give later ones a share.
    """

    type: Literal["projected_kl"] = "projected_kl"
    pieces: Annotated[int, Field(ge=1, le=MAX_SUBTOKENS)] = 1

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "places"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Groups of tokens that stand for the same text, where they begin."""
        return AlignmentRule("spans", compare_at="begins")

    def _divergence(
        self, log_p: Float32[Array, "R K"], log_q: Float32[Array, "R K"]
    ) -> Float32[Array, " R"]:
        return losses.forward_kl(log_p, log_q)

    def _log_p_and_log_q(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, "R K"], Float32[Array, "R K"]]:
        log_p, log_q = (
            side.bucket_log_probs(self.temperature, num_subtokens=self.pieces)
            for side in (teacher, student)
        )
        return log_p, log_q
