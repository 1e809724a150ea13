"""Hidden-state alignment, the first term of feature-alignment distillation.

Wang et al., "Feature Alignment-Based Knowledge Distillation for Efficient Compression of Large
Language Models", 2024, https://arxiv.org/abs/2412.19449. The paper's equations could not be read: a
joint loss of features, attention and outputs, and a cosine among the feature losses are its own;
layers, bridges and all other choices are a reconstruction.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.losses import hidden_distances
from jaxdistill.objectives import bridges
from jaxdistill.objectives.base import OBJECTIVES, LossContext
from jaxdistill.objectives.bridges import BRIDGES, Bridge
from jaxdistill.objectives.calibration import CalibrationData
from jaxdistill.objectives.modules import TrainableObjective
from jaxdistill.objectives.tap_objective import TapObjective
from jaxdistill.objectives.tapped_positions import TappedPositions
from jaxdistill.taps import Taps, Widths
from jaxdistill.types import Params


@OBJECTIVES.register
@configclass
class HiddenAlignment(TapObjective, TrainableObjective):
    """Distance of hidden states, averaged over pairs of layers, per compared position.

    Layers are numbered as `hidden_states` of `transformers`: 0 is the input of the first layer, and
    the last layer's output has passed the final norm. With two tokenizers, hidden states are
    compared where both models have read the same text, at the ends of spans.

    Attributes:
        distance: `cosine`: 1 - cos(a, b). `mse`: mean squared difference. `normalized_mse`: the
            squared difference over the teacher's squared norm.
        bridge: How unlike widths are compared. `learned`: a linear map of the student's hidden
            states, trained beside the student. `none`: equal widths, as they are. `selected`: the
            teacher's most relevant dimensions, as many as the student has. `pca`: frozen
            projections into the teacher's principal subspace, fitted on calibration examples.
        rank: Dimension of the subspace of `pca`; at most the smaller width, and less than the
            number of positions of the calibration.
    """

    type: Literal["hidden"] = "hidden"
    distance: Literal["cosine", "mse", "normalized_mse"] = "cosine"
    bridge: Bridge = "learned"
    rank: Annotated[int, Field(gt=0)] = 256

    first_layer: ClassVar[int] = 0

    def check_widths(self, student: Widths, teacher: Widths) -> None:
        """Raise a UserError if the bridge does not fit the widths."""
        widths = f"the student is {student.hidden} wide and the teacher {teacher.hidden}"
        if self.bridge == "none" and student.hidden != teacher.hidden:
            raise UserError(
                f"bridge=none: {widths}, expected equal widths. Take `learned` or `pca`."
            )
        if self.bridge == "selected" and student.hidden > teacher.hidden:
            raise UserError(
                f"bridge=selected: {widths}, expected a wider teacher. Take `learned` or `pca`."
            )

    @property
    def taps(self) -> tuple[Taps, Taps]:
        """Hidden states of the paired layers."""
        student, teacher = zip(*self.pairs, strict=True)
        return Taps(hidden=student), Taps(hidden=teacher)

    @property
    def unused_fields(self) -> Mapping[str, str]:
        """Fields of all layers, and those of other bridges."""
        unused = dict(super().unused_fields)
        if self.bridge != "pca":
            unused["rank"] = "`bridge: pca`"
        if self.bridge != "learned":
            unused["learning_rate_scale"] = "`bridge: learned`"
        return unused

    @property
    def has_frozen_bridge(self) -> bool:
        """True if its bridge is fitted before training."""
        return self.bridge in ("selected", "pca")

    @property
    def reads_relevance(self) -> bool:
        """True if its bridge needs the relevance of the teacher's dimensions."""
        return self.bridge == "selected"

    def fit_bridges(self, data: CalibrationData) -> dict[str, Params]:
        """Fit the frozen bridge of each pair; empty for other bridges."""
        fit = {
            "selected": bridges.fit_selected,
            "pca": partial(bridges.fit_pca, rank=self.rank),
        }.get(self.bridge)
        return {} if fit is None else {_pair_name(pair): fit(data, *pair) for pair in self.pairs}

    def frozen_shapes(self, student: Widths, teacher: Widths) -> Params:
        """Return the shapes of the frozen bridge of each pair; empty for other bridges."""
        sizes = student.hidden, teacher.hidden
        shapes = {
            "selected": {"dimensions": jax.ShapeDtypeStruct(sizes[:1], jnp.int32)},
            "pca": bridges.pca_shapes(*sizes, self.rank),
        }
        one = shapes.get(self.bridge)
        return {} if one is None else {_pair_name(pair): one for pair in self.pairs}

    def init(self, key: Array, student: Widths, teacher: Widths) -> Params:
        """Initialise the learned bridge of each pair; empty for other bridges."""
        if self.bridge != "learned":
            return {}
        keys = jax.random.split(key, len(self.pairs))
        return {
            _pair_name(pair): bridges.init_learned(one, student.hidden, teacher.hidden)
            for pair, one in zip(self.pairs, keys, strict=True)
        }

    def pair_values(
        self, context: LossContext, pair: tuple[int, int], positions: TappedPositions
    ) -> Float32[Array, "B T"]:
        """Compute the distance at each position."""
        assert context.teacher is not None, "needs hidden states of the teacher"
        name = _pair_name(pair)
        hidden = (
            positions.of_student(context.student.taps.hidden[pair[0]]),
            positions.of_teacher(context.teacher.taps.hidden[pair[1]]),
        )
        # Positions that are not compared may hold anything, NaN too.
        is_compared = (positions.weight != 0)[..., None]
        student, teacher = (jnp.where(is_compared, x, 0) for x in hidden)
        student, teacher = BRIDGES[self.bridge](
            student, teacher, context.modules.get(name, {}), context.frozen.get(name, {})
        )
        return _DISTANCES[self.distance](student, teacher)


def _pair_name(pair: tuple[int, int]) -> str:
    return f"{pair[0]}_{pair[1]}"


_DISTANCES = {
    "cosine": hidden_distances.cosine_distance,
    "mse": hidden_distances.mean_squared_difference,
    "normalized_mse": hidden_distances.normalized_squared_difference,
}
