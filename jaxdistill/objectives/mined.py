"""MinED: the teacher's tokens count as the student's tokens that are spelt most like them.

Wan et al., "Knowledge Fusion of Large Language Models", 2024, https://arxiv.org/abs/2401.10491.
"""

from typing import ClassVar, Literal

import jax

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence, LogProbs, Positive
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, PerToken, TokenDistribution


@OBJECTIVES.register
@configclass
class MinED(Divergence):
    """KL(p‖q) over the student's tokens, with the teacher's logits mapped to the nearest tokens.

    The nearest token has the least edit distance. Of several teacher tokens that map to one student
    token the largest logit counts, and a student token to which none maps has probability 0.
    Positions are compared where a single token of both tokenizers covers the same bytes. Elsewhere
    the published method learns the label: combine it with `cross_entropy`.
    """

    type: Literal["mined"] = "mined"
    temperature: Positive = 2.0

    needs: ClassVar[Needs] = Needs(
        teacher=TEACHER_LOGITS, vocab_tables=frozenset({"nearest_token"})
    )
    alignment: ClassVar[AlignmentRule] = AlignmentRule("spans", compare_at="single_tokens")

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.forward_kl(log_p, log_q)

    def _log_p_and_log_q(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        vocab_size = student.logits.shape[-1]
        logits = losses.bucket_max_logits(
            teacher.logits, teacher.table("nearest_token"), num_buckets=vocab_size
        )
        return jax.nn.log_softmax(logits / self.temperature), student.log_probs(self.temperature)
