"""Dual-space knowledge distillation (DSKD): compare the models in both hidden spaces.

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
    """-log t(label) + KL(t‖q) + KL(p‖s), per scored position, in nats; one tokenizer only.

    Two learned projections carry hidden states into the other model's space. `t` is the student's
    LM head on the teacher's projected hidden states; `s` is the teacher's LM head on the student's.
    """

    type: Literal["dskd"] = "dskd"

    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        assert batch.alignment is None, "a run refuses `dskd` with two tokenizers"
        return batch, batch

    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        return ProjectedHidden(
            linear(modules["to_student"], zero_unscored(teacher.hidden, batch)),
            linear(modules["to_teacher"], zero_unscored(student.hidden, batch)),
        )
