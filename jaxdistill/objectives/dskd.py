"""Dual-space distillation: what each model thinks is carried into the other's space and read there.

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from typing import Literal

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES
from jaxdistill.objectives.dual_space import Carried, DualSpace
from jaxdistill.objectives.whole import linear, silent
from jaxdistill.types import Batch, Params, Signal


@OBJECTIVES.register
@configclass
class DSKD(DualSpace):
    """-log t(label) + KL(t‖q) + KL(p‖s), per token of an answer.

    `t` is what the student's head reads of the teacher's hidden states, carried into its space by a
    projection that is learned, and `s` what the teacher's head reads of the student's. With one
    tokenizer the places are the same, and a projection each way is all there is.
    """

    type: Literal["dskd"] = "dskd"

    def _places(self, batch: Batch) -> tuple[Batch, Batch]:
        assert batch.pairing is None, "a run whose teacher reads other tokens is refused"
        return batch, batch

    def _carry(self, modules: Params, student: Signal, teacher: Signal, batch: Batch) -> Carried:
        return Carried(
            linear(modules["to_student"], silent(teacher.hidden, batch)),
            linear(modules["to_teacher"], silent(student.hidden, batch)),
        )
