"""Generalised Jensen–Shannon (GKD): both sides are compared with a mixture of the two.

Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
2023, https://arxiv.org/abs/2306.13649.
"""

from typing import Annotated, Literal

from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence


@OBJECTIVES.register
@configclass
class JensenShannon(Divergence):
    """β KL(teacher‖m) + (1 − β) KL(student‖m) with m = β teacher + (1 − β) student, in nats.

    Args:
        beta: β. 0 stands for the forward KL and 1 for the reverse KL, to which it leads over.
    """

    type: Literal["jensen_shannon"] = "jensen_shannon"
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5

    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        return losses.jensen_shannon(log_p, log_q, beta=self.beta)
