"""GOLD: compare tokens that both vocabularies have by probability, and the others as ULD does.

Patiño et al., "Unlocking On-Policy Distillation for Any Model Family", 2025,
https://huggingface.co/spaces/HuggingFaceH4/general-on-policy-logit-distillation.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, LogProbs
from jaxdistill.objectives.hybrid_objective import HybridObjective
from jaxdistill.objectives.token_distribution import TokenDistribution


@OBJECTIVES.register
@configclass
class GOLD(HybridObjective):
    """w · Jensen–Shannon of tokens of equal bytes + (1 − w) · sorted difference of the others.

    Unlike TRL's, it weights by mass unless `shared` is set, and it compares the tokens that end
    completions, too.
    """

    type: Literal["gold"] = "gold"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "exact_match"})

    def _shared_log_probs(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        matches = student.exact_match[None]
        log_p, log_q = teacher.joint_log_probs(), student.joint_log_probs()
        log_p = jnp.where(matches >= 0, log_p[:, jnp.maximum(matches[0], 0)], -jnp.inf)
        return LogProbs(log_p, jnp.where(matches >= 0, log_q, -jnp.inf))

    def _is_shared(self, distribution: TokenDistribution) -> Bool[Array, "1 V"]:
        return distribution.exact_match[None] >= 0
