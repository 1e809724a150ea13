"""Total variation: half the probability mass that is in the wrong place.

Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023,
https://arxiv.org/abs/2307.15190.
"""

from typing import Literal

from jaxtyping import Array, Float32

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, Divergence


@OBJECTIVES.register
@configclass
class TotalVariation(Divergence):
    """½ Σ |teacher − student|, per row, between 0 and 1."""

    type: Literal["total_variation"] = "total_variation"

    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        return losses.total_variation(log_p, log_q)
