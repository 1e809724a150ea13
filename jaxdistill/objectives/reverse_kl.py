"""Reverse KL: the student must avoid every token that the teacher finds unlikely.

Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", 2023,
https://arxiv.org/abs/2306.08543.
"""

from typing import Literal

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence
from jaxdistill.objectives.token_distribution import PerPosition, PerToken


@OBJECTIVES.register
@configclass
class ReverseKL(Divergence):
    """KL(student‖teacher) per position, in nats."""

    type: Literal["reverse_kl"] = "reverse_kl"

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.reverse_kl(log_p, log_q)
