"""MinED: the teacher's words count as the student's words that are spelt most like them.

Wan et al., "Knowledge Fusion of Large Language Models", 2024, https://arxiv.org/abs/2401.10491.
"""

from typing import Annotated, ClassVar, Literal

import jax
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence, TokenDistribution


@OBJECTIVES.register
@configclass
class MinED(Divergence):
    """KL(p‖q) over the student's words, with p from the teacher's logits under the nearest words.

    Of several of the teacher's words that are nearest to one the largest logit counts, and a word
    that is nearest to none is impossible. Places are compared where one token of either side stands
    for the same text. Elsewhere the published method learns the label: `cross_entropy` beside this
    does.
    """

    type: Literal["mined"] = "mined"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "nearest"})

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Tokens that stand alone for the same text on both sides."""
        return AlignmentRule("spans", compare_at="singles")

    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        return losses.forward_kl(log_p, log_q)

    def _log_p_and_log_q(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, "R V"], Float32[Array, "R V"]]:
        num_words = student.logits.shape[-1]
        found = losses.bucket_max_logits(
            teacher.logits, teacher.nearest_token, num_buckets=num_words
        )
        return jax.nn.log_softmax(found / self.temperature), student.log_probs(self.temperature)
