"""Skew reverse KL (DistiLLM): compare the student with a mixture of both.

Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024,
https://arxiv.org/abs/2402.03898.
"""

from typing import Annotated, Literal

from pydantic import Field

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence
from jaxdistill.objectives.token_distribution import PerPosition, PerToken


@OBJECTIVES.register
@configclass
class SkewReverseKL(Divergence):
    """KL(student ‖ (1 − α) teacher + α student) per position, in nats.

    Attributes:
        alpha: α, the student's share of the mixture.
    """

    type: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.skew_reverse_kl(log_p, log_q, alpha=self.alpha)
