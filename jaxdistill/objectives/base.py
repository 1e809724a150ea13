"""Base classes of objectives, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill.align import AlignmentRule
from jaxdistill.config import Registry, configclass
from jaxdistill.objectives.calibration import Calibrated, CalibrationData, CalibrationRequest
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, PerToken, TokenDistribution
from jaxdistill.objectives.weight_schedule import WeightSchedule
from jaxdistill.objectives.weights import example_mean_weight, teacher_weight
from jaxdistill.taps import NO_TAPS, Taps, Widths
from jaxdistill.types import Batch, HiddenSignal, Params

OBJECTIVES = Registry("objective", package="jaxdistill.objectives")
"""Classes of objectives by their `type`, one file of this package each."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Annotation of config fields: a finite number above 0."""

PositionFunction = Callable[[TokenDistribution, TokenDistribution | None], PerPosition]
"""`(student, teacher or None) -> values`, one value per position."""

LogProbs = tuple[PerToken, PerToken]
"""Log-probabilities of teacher and student over one set of outcomes, in nats."""


CHUNK_SIZE = 256
"""Positions per chunk. Adding up the LM head's gradient is then small beside forming it, and the
logits of a chunk are small beside that gradient."""


@dataclass(frozen=True)
class LossContext:
    """Inputs of an objective's terms.

    Attributes:
        student: Signal of the student for a micro-batch.
        teacher: Signal of the teacher for `teacher_batch(batch)`, without gradient; None if no
            objective of the run needs it.
        batch: The micro-batch.
        modules: The objective's trainable modules.
        frozen: The objective's arrays that were fitted before training.
        num_shards: Number of devices that hold a part of the batch.
        chunk_size: Positions of each shard that are projected at a time.
    """

    student: HiddenSignal
    teacher: HiddenSignal | None
    batch: Batch
    modules: Params = field(default_factory=dict)
    frozen: Params = field(default_factory=dict)
    num_shards: int = 1
    chunk_size: int = CHUNK_SIZE


class PositionTerm(NamedTuple):
    """A term that is a sum over positions, which the vocabulary engine computes.

    Terms of the same signals and batch share one walk over the vocabulary.

    Attributes:
        objective: The position objective whose values are summed.
        student: Signal that a gradient reaches.
        teacher: Signal beside it; None for an objective that reads one model.
        batch: The batch that both read; the teacher reads its alignment's view, if it has one.
    """

    objective: "PositionObjective"
    student: HiddenSignal
    teacher: HiddenSignal | None
    batch: Batch


LossTerm = PositionTerm | Float32[Array, ""]
"""A sum over positions, or a sum that was computed already."""


@configclass
class Objective(ABC):
    """A distillation method: the loss of a run is the weighted sum of its objectives.

    Attributes:
        weight: Factor of the objective in the loss: a number, or a list of `[step, weight]` points
            that straight lines connect.
    """

    weight: WeightSchedule = 1.0

    needs: ClassVar[Needs]
    """Inputs besides the student's signal."""

    term_names: ClassVar[tuple[str, ...]] = ("",)
    """Names of the terms whose sum it is, as in metrics; "" is the objective itself."""

    zero_at_equality: ClassVar[bool] = False
    """True if its value is 0 where student and teacher are equal."""

    stationary_at_equality: ClassVar[bool] = False
    """True if its gradient is 0 where student and teacher are equal."""

    alignment: ClassVar[AlignmentRule | None] = None
    """`alignment_rule` of objectives whose fields do not change it."""

    @property
    def unused_fields(self) -> Mapping[str, str]:
        """Fields that have no effect beside the values of others, with what they belong to."""
        return {}

    @property
    def alignment_rule(self) -> AlignmentRule | None:
        """Rule by which it aligns two tokenizers; None where it has none."""
        return self.alignment

    @property
    def is_cross_tokenizer(self) -> bool:
        """True if it can compare models of different tokenizers."""
        return self.alignment_rule is not None

    @property
    def needs_teacher(self) -> bool:
        """True if it reads something of the teacher."""
        return bool(self.needs.teacher)

    @property
    def vocab_needs(self) -> frozenset[str]:
        """Required vocabulary tables: `Needs.vocab_tables`."""
        return self.needs.vocab_tables

    def bind(self, student: Widths, teacher: Widths) -> "Objective":
        """Return the objective for models of these sizes; a UserError if they do not fit."""
        del student, teacher
        return self

    @property
    def taps(self) -> tuple[Taps, Taps]:
        """Taps of student and teacher, once the objective is bound."""
        return NO_TAPS, NO_TAPS

    def deepest_layer(self, student: Widths) -> int:
        """Return the last layer of the student on whose output it depends, once it is bound."""
        return student.layers

    def calibration_request(self, student: Widths, teacher: Widths) -> CalibrationRequest | None:
        """Return what the objective reads of both models before training; None for nothing."""
        del student, teacher
        return None

    def calibrate(self, data: CalibrationData, student: Widths, teacher: Widths) -> Calibrated:
        """Return the objective with what it takes from the features that it requested."""
        del data
        return Calibrated(self.bind(student, teacher), {}, None)

    def frozen_shapes(self, student: Widths, teacher: Widths) -> Params:
        """Return the shapes of the arrays that its calibration fits, once it is bound."""
        del student, teacher
        return {}

    @abstractmethod
    def denominators(self, batch: Batch) -> Mapping[str, Float32[Array, ""]]:
        """Return the divisor of each term's sum, by its name: the total weight of a batch."""

    @abstractmethod
    def terms(self, context: LossContext) -> Mapping[str, LossTerm]:
        """Return the sum of each term over a micro-batch, by its name.

        Positions of weight 0 must not change it.
        """


def joint_taps(objectives: Sequence[Objective]) -> tuple[Taps, Taps]:
    """Return all taps of student and teacher, once the objectives are bound."""
    student, teacher = zip(*(objective.taps for objective in objectives), strict=True)
    return reduce(or_, student), reduce(or_, teacher)


def objective_names(objectives: Sequence[Objective]) -> list[str]:
    """Return the name of each objective in metrics: its type, numbered from the second on."""
    types = [objective.type for objective in objectives]  # pyright: ignore
    counts = [types[: index + 1].count(name) for index, name in enumerate(types)]
    return [
        name if count == 1 else f"{name}_{count}" for name, count in zip(types, counts, strict=True)
    ]


@configclass
class PositionObjective(Objective):
    """An objective that is a sum over positions: it compares the models at each one alone."""

    def denominators(self, batch: Batch) -> Mapping[str, Float32[Array, ""]]:
        """Return the total weight of the positions, for the objective and its diagnostics."""
        return dict.fromkeys(("", *self.diagnostics), self._total_weight(batch))

    def terms(self, context: LossContext) -> Mapping[str, LossTerm]:
        """Return the objective itself, for the vocabulary engine."""
        return {"": PositionTerm(self, context.student, context.teacher, context.batch)}

    def _total_weight(self, batch: Batch) -> Float32[Array, ""]:
        """Sum the weights of the values; with two tokenizers, spans have their weight."""
        if not self.needs_teacher:
            return jnp.sum(batch.loss_mask)
        is_averaged = self.averages_examples and batch.alignment is None
        return jnp.sum(example_mean_weight(batch) if is_averaged else teacher_weight(batch))

    @property
    def needs_span_prefix(self) -> bool:
        """True if it reads the log-probability of the earlier tokens of spans."""
        rule = self.alignment_rule
        return rule is not None and (rule.method, rule.compare_at) == ("spans", "last_token")

    @property
    def averages_examples(self) -> bool:
        """True if examples weigh equally, not tokens or spans."""
        return self.alignment_rule is not None and self.alignment_rule.average_over == "rows"

    @property
    def diagnostics(self) -> Mapping[str, PositionFunction]:
        """Per-position diagnostics, logged as `train/<objective>_<name>`; not part of the loss."""
        return {}

    @abstractmethod
    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the value at each position, in nats, neither weighted nor reduced.

        `teacher` is None where no objective of the run `needs_teacher`.
        """


@configclass
class Divergence(PositionObjective):
    """A divergence of two distributions over one vocabulary: 0 where they are equal.

    Attributes:
        temperature: Divides the logits of both models first. A high temperature gives more weight
            to tokens that the teacher finds unlikely.
        scale_by_temperature_squared: Multiply by temperature², which keeps the size of the
            gradient at a higher temperature (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).
    """

    temperature: Positive = 1.0
    scale_by_temperature_squared: bool = False

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS)
    zero_at_equality: ClassVar[bool] = True
    stationary_at_equality: ClassVar[bool] = True

    @abstractmethod
    def _divergence(self, log_p: PerToken, log_q: PerToken) -> PerPosition:
        """Divergence of the teacher's `log_p` and the student's `log_q`, per position."""

    def _log_p_and_log_q(self, student: TokenDistribution, teacher: TokenDistribution) -> LogProbs:
        return teacher.log_probs(self.temperature), student.log_probs(self.temperature)

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the divergence at this temperature."""
        assert teacher is not None, "needs teacher logits"
        scale = self.temperature**2 if self.scale_by_temperature_squared else 1.0
        return scale * self._divergence(*self._log_p_and_log_q(student, teacher))
