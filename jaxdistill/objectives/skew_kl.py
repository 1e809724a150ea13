"""Skew KL (DistiLLM): compare the teacher with a mixture of both, so that no target is zero.

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
class SkewKL(Divergence):
    """KL(teacher ‖ α teacher + (1 − α) student) per position, in nats.

    Attributes:
        alpha: α, the teacher's share of the mixture.
    """

    type: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.skew_kl(log_p, log_q, alpha=self.alpha)
