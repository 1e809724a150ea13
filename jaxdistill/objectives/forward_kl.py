"""Forward KL: the student must cover whatever the teacher finds likely.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531.
"""

from typing import Literal

from jaxtyping import Array, Float32

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence


@OBJECTIVES.register
@configclass
class ForwardKL(Divergence):
    """KL(teacher‖student), per row, in nats."""

    type: Literal["forward_kl"] = "forward_kl"

    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        return losses.forward_kl(log_p, log_q)
