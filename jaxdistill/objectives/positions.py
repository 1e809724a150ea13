"""Positions of a batch, flattened per shard, at which the vocabulary engine compares two models."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill.pytree import pytree


class SpanContext(NamedTuple):
    """Log-probabilities of what precedes and follows the label in its span, in nats.

    Attributes:
        prefix_log_probs: Of the span's earlier tokens; None where every span is a single token.
        boundary_log_probs: Of white space or a special token after the span; None where no
            objective needs it.
    """

    prefix_log_probs: Float32[Array, "*G R"] | None = None
    boundary_log_probs: Float32[Array, "*G R"] | None = None


@pytree
@dataclass(frozen=True)
class ModelPositions:
    """Hidden states and labels of one model, and log-probabilities beside the label in its span."""

    hidden: Float[Array, "*G R D"]
    labels: Int[Array, "*G R"]
    span_context: SpanContext = SpanContext()  # noqa: RUF009 - immutable


@pytree
@dataclass(frozen=True)
class AlignedPositions:
    """Positions at which two models are compared.

    Attributes:
        student: The student's positions.
        teacher: The teacher's position beside each of the student's; None without a teacher.
        loss_mask: Weight of what concerns the student alone; positions of weight 0 are skipped.
        span_weight: Weight of the comparison with the teacher; None where both models read the
            same tokens, and it is `loss_mask`.
        example_mean_weight: Weight of the comparison by objectives that average over examples; None
            where it is `teacher_weight`.
    """

    student: ModelPositions
    teacher: ModelPositions | None
    loss_mask: Float[Array, "*G R"]
    span_weight: Float[Array, "*G R"] | None = None
    example_mean_weight: Float[Array, "*G R"] | None = None

    def __post_init__(self):
        """Check that all parts have the same positions."""
        shape = self.student.labels.shape
        weights = ("loss_mask", "span_weight", "example_mean_weight")
        parts = {name: getattr(self, name) for name in weights}
        parts["teacher"] = None if self.teacher is None else self.teacher.labels
        for name, array in parts.items():
            if array is not None and array.shape != shape:
                raise TypeError(f"parameter '{name}' has shape {array.shape}, the student {shape}")

    @property
    def teacher_weight(self) -> Float[Array, "*G R"]:
        """Weight of the comparison with the teacher."""
        return self.loss_mask if self.span_weight is None else self.span_weight

    @property
    def is_scored(self) -> Bool[Array, "*G R"]:
        """Positions with a weight, of either kind."""
        return (self.loss_mask != 0) | (self.teacher_weight != 0)
