"""Projected KL: compare the models over buckets of tokens that begin with the same text.

After P-KL of "X-Token", NVIDIA, 2026, https://arxiv.org/abs/2605.21699.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.align.shared_buckets import MAX_SUBTOKENS
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence, LogProbs
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, PerToken, TokenDistribution


@OBJECTIVES.register
@configclass
class ProjectedKL(Divergence):
    """KL(p‖q) over buckets: tokens of both vocabularies that begin with the same text.

    A student token lies in the bucket of the teacher token that its text would begin with. A
    teacher token that begins no student token lies in the bucket of what the student would begin
    its text with. Spans of several tokens are compared at their first tokens, which follow the same
    text on both sides.

    Attributes:
        pieces: Number of subtokens over which a student token is spread, each with half the share
            of the one before. The first is what comes next; more of them give later ones a share.
    """

    type: Literal["projected_kl"] = "projected_kl"
    pieces: Annotated[int, Field(ge=1, le=MAX_SUBTOKENS)] = 1

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS, vocab_tables=frozenset({"buckets"}))
    alignment: ClassVar[AlignmentRule] = AlignmentRule("spans", compare_at="first_token")

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.forward_kl(log_p, log_q)

    def _log_p_and_log_q(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        options = {"temperature": self.temperature, "num_subtokens": self.pieces}
        return teacher.bucket_log_probs(**options), student.bucket_log_probs(**options)
