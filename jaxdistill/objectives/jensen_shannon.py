"""Generalised Jensen–Shannon divergence (GKD): compare both models with a mixture of the two.

Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
2023, https://arxiv.org/abs/2306.13649.
"""

from typing import Annotated, Literal

from pydantic import Field

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence
from jaxdistill.objectives.token_distribution import PerPosition, PerToken


@OBJECTIVES.register
@configclass
class JensenShannon(Divergence):
    """β KL(teacher‖m) + (1 − β) KL(student‖m) with m = β teacher + (1 − β) student, in nats.

    Attributes:
        beta: β, the teacher's share of the mixture. 0 is the forward KL and 1 the reverse KL: the
            limits of the value divided by β, and by 1 − β.
    """

    type: Literal["jensen_shannon"] = "jensen_shannon"
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.jensen_shannon(log_p, log_q, beta=self.beta)
