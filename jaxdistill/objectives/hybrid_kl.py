"""Hybrid: as GOLD, where a student's word has the teacher's word that it begins with for a partner.

After H-KL of "X-Token", NVIDIA, 2026, https://arxiv.org/abs/2605.21699: under GOLD, words that only
the student has, such as numbers of several digits, are compared by rank and so unlearned.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits
from jaxdistill.objectives.gold import Hybrid


@OBJECTIVES.register
@configclass
class HybridKL(Hybrid):
    """Partners are the beginnings of words that both know, as in `projected_kl`.

    What stays without are the teacher's words that no word of the student's leads to, and marks.
    """

    type: Literal["hybrid_kl"] = "hybrid_kl"

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "places"})
    bound: ClassVar[str] = "hybrid_kl_bound"

    def _partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        log_q = student.place_log_probs(1.0, pieces=1)[:, 1:]
        if student.log_prefix is not None:
            log_q = log_q + student.log_prefix[:, None]
        return teacher.merged_log_probs()[:, teacher.owners[1:]], log_q

    def _have_partners(self, student: RowLogits, teacher: RowLogits) -> tuple[Array, Array]:
        words = jnp.arange(teacher.logits.shape[-1])
        is_owner = teacher.owners[teacher.places[:, 0]] == words
        return is_owner[None], student.places[None, :, 0] > 0
