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
from jaxdistill.objectives.base import RowObjective
from jaxdistill.objectives.cross_entropy import CrossEntropy
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.whole import LearnedObjective, Walk, init_linear
from jaxdistill.types import Batch, Params, Signal


class Carried(NamedTuple):
    """Hidden states in the space that they do not come from.

    Attributes:
        to_student: The teacher's, at the student's places.
        to_teacher: The student's, at the teacher's places.
    """

    to_student: Float[Array, "B T D"]
    to_teacher: Float[Array, "B S E"]


@configclass
class DualSpace(LearnedObjective):
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
    parts: ClassVar[tuple[str, ...]] = (
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
        self, modules: Params, student: Signal, teacher: Signal, batch: Batch, walk: Walk
    ) -> dict[str, Float32[Array, ""]]:
        """The three sums, each a walk of its own."""
        carried = self._carry(modules, student, teacher, batch)
        here, there = self._places(batch)
        head = jax.lax.stop_gradient(student.head)
        as_student = Signal(carried.to_student.astype(student.hidden.dtype), head)
        as_teacher = Signal(carried.to_teacher.astype(teacher.hidden.dtype), teacher.head)
        target = jax.lax.stop_gradient(as_student)
        found = (
            walk.compare(CrossEntropy(), as_student, None, here),
            walk.compare(self._student_space_kl, student, target, here),
            walk.compare(ForwardKL(temperature=self.temperature), as_teacher, teacher, there),
        )
        return dict(zip(self.parts, found, strict=True))

    def counts(self, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """The places that count on the side where each is read."""
        here, there = (places.loss_mask.sum() for places in self._places(batch))
        return dict(zip(self.parts, (here, here, there), strict=True))

    @property
    def _student_space_kl(self) -> RowObjective:
        return ForwardKL(temperature=self.temperature)

    @abstractmethod
    def _places(self, batch: Batch) -> tuple[Batch, Batch]:
        """The places that the student reads and those that the teacher reads, with what counts."""

    @abstractmethod
    def _carry(self, modules: Params, student: Signal, teacher: Signal, batch: Batch) -> Carried:
        """Both models' hidden states, carried over."""
