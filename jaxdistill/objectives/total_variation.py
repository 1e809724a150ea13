"""Total variation: the probability mass that is on other tokens than the teacher's.

Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023,
https://arxiv.org/abs/2307.15190.
"""

from typing import Literal

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence
from jaxdistill.objectives.token_distribution import PerPosition, PerToken


@OBJECTIVES.register
@configclass
class TotalVariation(Divergence):
    """½ Σ |teacher − student| per position, between 0 and 1."""

    type: Literal["total_variation"] = "total_variation"

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.total_variation(log_p, log_q)
