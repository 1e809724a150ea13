"""Objectives over inner layers: a mean over pairs of layers, at the positions of a batch."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import LossContext, LossTerm, Objective
from jaxdistill.objectives.calibration import (
    Calibrated,
    CalibrationData,
    CalibrationRequest,
    search_pairs,
)
from jaxdistill.objectives.layer_map import LayerMap, LayerPairs, make_layer_pairs
from jaxdistill.objectives.needs import Needs, Provides
from jaxdistill.objectives.tapped_positions import Positions, TappedPositions
from jaxdistill.taps import Taps, Widths
from jaxdistill.types import Batch, Params

_Self = TypeVar("_Self", bound="TapObjective")


@configclass
class TapObjective(Objective):
    """A comparison of inner layers: the mean over pairs of layers, per position.

    Attributes:
        layers: Pairs of a student's and a teacher's layer, counted from 1, or a rule. `uniform`:
            evenly spaced layers and those of the same relative depth. `last`: the last layers.
            `first_last`: the first and the last one. `{every: n}`: every n-th layer of the student.
            `searched`: of each of the student's layers of `uniform`, the layer of the teacher from
            which a linear map predicts it best on calibration examples, in ascending order.
        num_layers: Number of pairs of `uniform`, `last` and `searched`; at most one for each of the
            student's layers.
        positions: Positions to compare: those whose label is learned (`completion`), `all` of the
            text, or the `last` learned one of each example. With two tokenizers, the ends of spans
            in completions, or the last one.
        calibration_examples: Number of training examples that a calibration reads, from the first,
            at the positions of `completion`; of several objectives, the largest number counts.
    """

    layers: LayerMap = "uniform"
    num_layers: Annotated[int, Field(gt=0)] = 4
    positions: Positions = "completion"
    calibration_examples: Annotated[int, Field(gt=0)] = 128

    needs: ClassVar[Needs] = Needs(teacher=Provides(taps=True))
    alignment: ClassVar[AlignmentRule] = AlignmentRule("spans", average_over=None)
    first_layer: ClassVar[int] = 1
    """Number of the first layer that can be tapped."""

    def bind(self: _Self, student: Widths, teacher: Widths) -> _Self:
        """Return the objective with the pairs of layers of two models.

        Raises:
            UserError: If the models do not have the layers, or do not fit each other.
        """
        self.check_widths(student, teacher)
        pairs = make_layer_pairs(
            self.layers, self.num_layers, student, teacher, first_layer=self.first_layer
        )
        return replace(self, layers=pairs)

    def calibration_request(self, student: Widths, teacher: Widths) -> CalibrationRequest | None:
        """Return what is read before training; None if nothing is searched or fitted."""
        is_searched = self.layers == "searched"
        if not (is_searched or self.has_frozen_bridge):
            return None
        student_layers, teacher_layers = zip(*self.bind(student, teacher).pairs, strict=True)
        if is_searched:
            teacher_layers = tuple(range(1, teacher.layers + 1))
        return CalibrationRequest(
            student=Taps(hidden=tuple(sorted(set(student_layers)))),
            teacher=Taps(hidden=tuple(sorted(set(teacher_layers)))),
            relevance=teacher_layers if self.reads_relevance else (),
            num_examples=self.calibration_examples,
        )

    def calibrate(self, data: CalibrationData, student: Widths, teacher: Widths) -> Calibrated:
        """Search the pairs of layers, if they are to be searched, and fit the frozen bridges."""
        bound, scores = self.bind(student, teacher), None
        if self.layers == "searched":
            scores = search_pairs(data)
            bound = replace(bound, layers=scores.pairs)
        return Calibrated(bound, bound.fit_bridges(data), scores)

    @property
    def pairs(self) -> LayerPairs:
        """Pairs of layers, once they are bound."""
        assert isinstance(self.layers, tuple), "`bind` names the layers"
        return self.layers

    def deepest_layer(self, student: Widths) -> int:
        """Return the last layer whose output it reads, or from which its attention is computed."""
        del student
        return max(self.taps[0].hidden_layers)

    def denominators(self, batch: Batch) -> Mapping[str, Float32[Array, ""]]:
        """Return the total weight of the compared positions."""
        return {"": jnp.sum(TappedPositions.from_batch(batch, self.positions).weight)}

    def terms(self, context: LossContext) -> Mapping[str, LossTerm]:
        """Return the sum over the compared positions of the mean over pairs."""
        positions = TappedPositions.from_batch(context.batch, self.positions)
        values = [self.pair_values(context, pair, positions) for pair in self.pairs]
        mean = jnp.mean(jnp.stack(values), axis=0)
        return {"": jnp.sum(jnp.where(positions.weight != 0, positions.weight * mean, 0))}

    @property
    def unused_fields(self) -> Mapping[str, str]:
        """Fields of layers and of the calibration, where others make them idle."""
        unused = {}
        if self.layers not in ("uniform", "last", "searched"):
            unused["num_layers"] = "`layers: uniform`, `last` and `searched`"
        if not (self.layers == "searched" or self.has_frozen_bridge):
            unused["calibration_examples"] = "what is searched or fitted before training"
        return unused

    def check_widths(self, student: Widths, teacher: Widths) -> None:
        """Raise a UserError if the objective does not fit the widths of the models."""

    @property
    def has_frozen_bridge(self) -> bool:
        """True if it has frozen arrays, which are fitted before training."""
        return False

    @property
    def reads_relevance(self) -> bool:
        """True if they need the relevance of the teacher's dimensions."""
        return False

    def fit_bridges(self, data: CalibrationData) -> dict[str, Params]:
        """Fit the frozen arrays of each pair of layers."""
        del data
        return {}

    @property
    @abstractmethod
    def taps(self) -> tuple[Taps, Taps]:
        """Taps of student and teacher, once the layers are bound."""

    @abstractmethod
    def pair_values(
        self, context: LossContext, pair: tuple[int, int], positions: TappedPositions
    ) -> Float32[Array, "B T"]:
        """Compute the value of a pair of layers at each position of the student's batch."""
