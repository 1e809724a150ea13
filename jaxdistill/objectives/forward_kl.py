"""Forward KL: the student must cover every token that the teacher finds likely.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531.
"""

from typing import Literal

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence
from jaxdistill.objectives.token_distribution import PerPosition, PerToken


@OBJECTIVES.register
@configclass
class ForwardKL(Divergence):
    """KL(teacher‖student) per position, in nats."""

    type: Literal["forward_kl"] = "forward_kl"

    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        return losses.forward_kl(log_p, log_q)
