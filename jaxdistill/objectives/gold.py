"""GOLD: words that both models know are compared as such, and the others by rank, as in ULD.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, TokenDistribution
from jaxdistill.objectives.hybrid_objective import HybridObjective


@OBJECTIVES.register
@configclass
class GOLD(HybridObjective):
    """w · Jensen–Shannon of the words that both know + (1 − w) · sorted difference of the others.

    Words of the same bytes are known to both. Unlike TRL's it weights by mass unless told
    otherwise, and compares the ends of answers, too.
    """

    type: Literal["gold"] = "gold"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    def _matched_log_probs(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        twins = student.exact_match[None]
        log_p, log_q = teacher.joint_log_probs(), student.joint_log_probs()
        beside = jnp.where(twins >= 0, log_p[:, jnp.maximum(twins[0], 0)], -jnp.inf)
        return beside, jnp.where(twins >= 0, log_q, -jnp.inf)

    def _is_matched(
        self, teacher: TokenDistribution, student: TokenDistribution
    ) -> tuple[Array, Array]:
        return teacher.exact_match[None] >= 0, student.exact_match[None] >= 0
