"""Base classes of objectives, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from jaxdistill.align import AlignmentRule
from jaxdistill.config import Registry, configclass
from jaxdistill.objectives.token_distribution import PerPosition, PerToken, TokenDistribution
from jaxdistill.objectives.weight_schedule import WeightSchedule

OBJECTIVES = Registry("objective", package="jaxdistill.objectives")
"""Classes of objectives by their `type`, one file of this package each."""

VOCAB_NEEDS = frozenset({"exact_match", "buckets", "nearest_token"})
"""Members of `Objective.needs` that name tables of `VocabTables`."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Annotation of config fields: a finite number above 0."""

PositionFunction = Callable[[TokenDistribution, TokenDistribution | None], PerPosition]
"""`(student, teacher or None) -> values`, one value per position."""

LogProbs = tuple[PerToken, PerToken]
"""Log-probabilities of teacher and student over one set of outcomes, in nats."""


@configclass
class Objective(ABC):
    """A distillation method: the loss of a run is the weighted sum of its objectives.

    Attributes:
        weight: Factor of the objective in the loss: a number, or a list of `[step, weight]` points
            that straight lines connect.
    """

    weight: WeightSchedule = 1.0

    needs: ClassVar[frozenset[str]]
    """Required inputs: "labels", "teacher_logits", "teacher_hidden", members of `VOCAB_NEEDS`."""

    zero_at_equality: ClassVar[bool] = False
    """True if its value is 0 where student and teacher are equal."""

    stationary_at_equality: ClassVar[bool] = False
    """True if its gradient is 0 where student and teacher are equal."""

    alignment: ClassVar[AlignmentRule | None] = None
    """`alignment_rule` of objectives whose fields do not change it."""

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
        """True if it reads the teacher's logits."""
        return "teacher_logits" in self.needs

    @property
    def vocab_needs(self) -> frozenset[str]:
        """Required vocabulary tables: members of `VOCAB_NEEDS`, or "word_boundaries".

        "word_boundaries" also requires `span_boundary_log_probs` of both models.
        """
        return self.needs & VOCAB_NEEDS


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

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})
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
