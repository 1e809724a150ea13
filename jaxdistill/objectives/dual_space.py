"""Both spaces: what methods share that carry hidden states into the other model's space.

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float, Float32
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.objectives.base import PositionObjective
from jaxdistill.objectives.batch_objective import TrainableObjective, VocabEngine, init_linear
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.types import Batch, HiddenSignal, Params


class ProjectedHidden(NamedTuple):
    """Hidden states in the space that they do not come from.

    Attributes:
        to_student: The teacher's, at the student's places.
        to_teacher: The student's, at the teacher's places.
    """

    in_student_space: Float[Array, "B T D"]
    in_teacher_space: Float[Array, "B S E"]


@configclass
class DualSpace(TrainableObjective):
    """Both spaces: what is carried into one is read by the head of that one, which stays as it is.

    In the student's space, -log t(label) teaches the projection to say what the teacher knows in
    the student's words, and KL(t‖q) teaches the student; no gradient of the latter reaches `t`. In
    the teacher's space, KL(p‖s) teaches both. Each is a mean over the places of that space; where
    the teacher has other tokens, the authors' code divides the last by the student's places, too.

    Args:
        learning_rate_scale: As in the authors' code, where projections learn at 1e-3 beside 5e-4.
        temperature: Divides the logits in both divergences, as in the authors' recipes; there is no
            factor temperature².
    """

    learning_rate_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "teacher_hidden", "labels"})
    term_names: ClassVar[tuple[str, ...]] = (
        "projected_cross_entropy",
        "student_space_kl",
        "teacher_space_kl",
    )

    def init(self, key: Array, student_dim: int, teacher_dim: int) -> Params:
        """The two projections."""
        there, back = jax.random.split(key)
        return {
            "to_student": init_linear(there, teacher_dim, student_dim),
            "to_teacher": init_linear(back, student_dim, teacher_dim),
        }

    def sums(
        self,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal,
        batch: Batch,
        engine: VocabEngine,
    ) -> dict[str, Float32[Array, ""]]:
        """The three sums, each a walk of its own."""
        carried = self._project_hidden(modules, student, teacher, batch)
        here, there = self._scored_batches(batch)
        head = jax.lax.stop_gradient(student.lm_head)
        as_student = HiddenSignal(carried.in_student_space.astype(student.hidden.dtype), head)
        as_teacher = HiddenSignal(
            carried.in_teacher_space.astype(teacher.hidden.dtype), teacher.lm_head
        )
        target = jax.lax.stop_gradient(as_student)
        found = (
            engine.objective_sum(CrossEntropy(), as_student, None, here),
            engine.objective_sum(self._student_space_kl, student, target, here),
            engine.objective_sum(
                ForwardKL(temperature=self.temperature), as_teacher, teacher, there
            ),
        )
        return dict(zip(self.term_names, found, strict=True))

    def denominators(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """The places that count on the side where each is read."""
        here, there = (places.loss_mask.sum() for places in self._scored_batches(batch))
        return dict(zip(self.term_names, (here, here, there), strict=True))

    @property
    def _student_space_kl(self) -> PositionObjective:
        return ForwardKL(temperature=self.temperature)

    @abstractmethod
    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        """The places that the student reads and those that the teacher reads, with what counts."""

    @abstractmethod
    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        """Both models' hidden states, carried over."""
