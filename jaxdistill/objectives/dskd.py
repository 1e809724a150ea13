"""Dual-space distillation: what each model thinks is carried into the other's space and read there.

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from typing import Literal

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES
from jaxdistill.objectives.batch_objective import linear, zero_unscored
from jaxdistill.objectives.dual_space import DualSpace, ProjectedHidden
from jaxdistill.types import Batch, HiddenSignal, Params


@OBJECTIVES.register
@configclass
class DSKD(DualSpace):
    """-log t(label) + KL(t‖q) + KL(p‖s), per token of an answer.

    `t` is what the student's head reads of the teacher's hidden states, carried into its space by a
    projection that is learned, and `s` what the teacher's head reads of the student's. With one
    tokenizer the places are the same, and a projection each way is all there is.
    """

    type: Literal["dskd"] = "dskd"

    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        assert batch.alignment is None, "a run whose teacher reads other tokens is refused"
        return batch, batch

    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        return ProjectedHidden(
            linear(modules["to_student"], zero_unscored(teacher.hidden, batch)),
            linear(modules["to_teacher"], zero_unscored(student.hidden, batch)),
        )
