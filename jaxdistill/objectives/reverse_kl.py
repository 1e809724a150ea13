"""Reverse KL: the student must avoid whatever the teacher finds unlikely.

Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", 2023,
https://arxiv.org/abs/2306.08543.
"""

from typing import Literal

from jaxtyping import Array, Float32

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence


@OBJECTIVES.register
@configclass
class ReverseKL(Divergence):
    """KL(student‖teacher), per row, in nats."""

    type: Literal["reverse_kl"] = "reverse_kl"

    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        return losses.reverse_kl(log_p, log_q)
