"""Dual-space knowledge distillation (DSKD): compare the models in both hidden spaces.

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
from jaxtyping import Array, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, LossContext, LossTerm, PositionTerm, Positive
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.modules import (
    TrainableObjective,
    init_linear,
    linear,
    zero_unscored,
)
from jaxdistill.objectives.needs import Needs, Provides
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, HiddenSignal, Params

ProjectedHidden = tuple[Float[Array, "B T D"], Float[Array, "B S E"]]
"""The teacher's hidden states in the student's space, and the student's in the teacher's space,
each at the positions of the model whose space it is."""


@configclass
class DualSpace(TrainableObjective):
    """A comparison in both hidden spaces: each model's LM head reads the other's hidden states.

    In the student's space, -log t(label) trains the projection, and KL(t‖q) trains the student;
    `t` gets no gradient from the KL. In the teacher's space, KL(p‖s) trains both. Each term is a
    mean over the positions of its space. The authors' code divides the last by the student's
    positions also where the teacher has other tokens.

    Attributes:
        learning_rate_scale: Factor of the optimizer's learning rate for the projections. The
            authors train them at 1e-3 beside 5e-4.
        temperature: Divides the logits in both divergences, as in the authors' recipes; there is
            no factor temperature².
    """

    learning_rate_scale: Positive = 2.0
    temperature: Positive = 2.0

    needs: ClassVar[Needs] = Needs(labels=True, teacher=Provides(logits=True, hidden=True))
    student_space_kl: ClassVar[type[ForwardKL]] = ForwardKL
    term_names: ClassVar[tuple[str, ...]] = (
        "projected_cross_entropy",
        "student_space_kl",
        "teacher_space_kl",
    )

    def init(self, key: Array, student: Widths, teacher: Widths) -> Params:
        """Initialise the two projections."""
        to_student_key, to_teacher_key = jax.random.split(key)
        return {
            "to_student": init_linear(to_student_key, teacher.hidden, student.hidden),
            "to_teacher": init_linear(to_teacher_key, student.hidden, teacher.hidden),
        }

    def terms(self, context: LossContext) -> Mapping[str, LossTerm]:
        """Return the three terms, two in the student's space and one in the teacher's."""
        student, teacher, batch = context.student, context.teacher, context.batch
        assert teacher is not None, "needs hidden states of the teacher"
        projected = self._project_hidden(context.modules, student, teacher, batch)
        to_student, to_teacher = (
            hidden.astype(signal.hidden.dtype)
            for hidden, signal in zip(projected, (student, teacher), strict=True)
        )
        student_batch, teacher_batch = self._scored_batches(batch)
        in_student_space = HiddenSignal(to_student, jax.lax.stop_gradient(student.lm_head))
        in_teacher_space = HiddenSignal(to_teacher, teacher.lm_head)
        target = jax.lax.stop_gradient(in_student_space)
        student_space_kl = self.student_space_kl(temperature=self.temperature)
        kl = ForwardKL(temperature=self.temperature)
        terms = (
            PositionTerm(CrossEntropy(), in_student_space, None, student_batch),
            PositionTerm(student_space_kl, student, target, student_batch),
            PositionTerm(kl, in_teacher_space, teacher, teacher_batch),
        )
        return dict(zip(self.term_names, terms, strict=True))

    def denominators(self, batch: Batch) -> Mapping[str, Float32[Array, ""]]:
        """Return the number of scored positions in the space of each term."""
        student, teacher = (one.loss_mask.sum() for one in self._scored_batches(batch))
        return dict(zip(self.term_names, (student, student, teacher), strict=True))

    @abstractmethod
    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        """Return the batch as student and teacher read it, with the loss masks of the terms."""

    @abstractmethod
    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        """Project the hidden states of both models."""


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
        return (
            linear(modules["to_student"], zero_unscored(teacher.hidden, batch)),
            linear(modules["to_teacher"], zero_unscored(student.hidden, batch)),
        )
