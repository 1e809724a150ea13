"""Base class of objectives that project hidden states into the other model's space.

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import PositionObjective, Positive
from jaxdistill.objectives.batch_objective import TrainableObjective, init_linear
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.engine import VocabEngine
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.types import Batch, HiddenSignal, Params


class ProjectedHidden(NamedTuple):
    """Hidden states of each model in the space of the other.

    Attributes:
        in_student_space: The teacher's, at the student's positions.
        in_teacher_space: The student's, at the teacher's positions.
    """

    in_student_space: Float[Array, "B T D"]
    in_teacher_space: Float[Array, "B S E"]


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

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "teacher_hidden", "labels"})
    term_names: ClassVar[tuple[str, ...]] = (
        "projected_cross_entropy",
        "student_space_kl",
        "teacher_space_kl",
    )

    def init(self, key: Array, student_dim: int, teacher_dim: int) -> Params:
        """Initialise the two projections."""
        to_student_key, to_teacher_key = jax.random.split(key)
        return {
            "to_student": init_linear(to_student_key, teacher_dim, student_dim),
            "to_teacher": init_linear(to_teacher_key, student_dim, teacher_dim),
        }

    def sums(
        self,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal,
        batch: Batch,
        engine: VocabEngine,
    ) -> dict[str, Float32[Array, ""]]:
        """Compute the three sums, each in a loop over the vocabulary of its own."""
        projected = self._project_hidden(modules, student, teacher, batch)
        student_batch, teacher_batch = self._scored_batches(batch)
        in_student_space = HiddenSignal(
            projected.in_student_space.astype(student.hidden.dtype),
            jax.lax.stop_gradient(student.lm_head),
        )
        in_teacher_space = HiddenSignal(
            projected.in_teacher_space.astype(teacher.hidden.dtype), teacher.lm_head
        )
        target = jax.lax.stop_gradient(in_student_space)
        kl = ForwardKL(temperature=self.temperature)
        sums = (
            engine.sum(CrossEntropy(), in_student_space, None, student_batch),
            engine.sum(self._student_space_kl, student, target, student_batch),
            engine.sum(kl, in_teacher_space, teacher, teacher_batch),
        )
        return dict(zip(self.term_names, sums, strict=True))

    def denominators(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """Return the number of scored positions in the space of each term."""
        student, teacher = (one.loss_mask.sum() for one in self._scored_batches(batch))
        return dict(zip(self.term_names, (student, student, teacher), strict=True))

    @property
    def _student_space_kl(self) -> PositionObjective:
        return ForwardKL(temperature=self.temperature)

    @abstractmethod
    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        """Return the batch as student and teacher read it, with the loss masks of the terms."""

    @abstractmethod
    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        """Project the hidden states of both models."""
