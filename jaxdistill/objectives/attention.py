"""Attention alignment, the second term of feature-alignment distillation.

Wang et al., "Feature Alignment-Based Knowledge Distillation for Efficient Compression of Large
Language Models", 2024, https://arxiv.org/abs/2412.19449, whose equations could not be read: what
follows is a reconstruction. The relations are those of Wang et al., "MiniLMv2: Multi-Head
Self-Attention Relation Distillation for Compressing Pretrained Transformers", 2021,
https://arxiv.org/abs/2012.15828.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.losses import attention_distances
from jaxdistill.objectives.base import OBJECTIVES, LossContext
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.objectives.tap_objective import TapObjective
from jaxdistill.objectives.tapped_positions import TappedPositions
from jaxdistill.objectives.weights import teacher_batch
from jaxdistill.taps import Taps, Widths
from jaxdistill.types import HiddenSignal

MapPair = tuple[Float[Array, "B H S S"], Float[Array, "B H T T"]]
"""Attention of teacher and student, of as many heads each."""


@OBJECTIVES.register
@configclass
class AttentionAlignment(TapObjective):
    """Distance of attention maps, averaged over pairs of layers, per compared query.

    With two tokenizers, attention to the tokens of a span is summed, at queries that follow spans.

    Attributes:
        heads: How unlike numbers of heads are compared. `mean`: the mean over heads. `map`: each
            head h of the student with the teacher's head h·H_T/H_S rounded down. `relations`: the
            relations of queries among each other, of keys and of values, in place of attention.
        distance: `mse`: sum over keys of squared differences. `kl`: KL(teacher‖student) over
            the keys that the student sees, those whose probability is not 0.
        relation_heads: Number of heads that queries, keys and values are split into for
            `relations`; it divides their widths in both models.
    """

    type: Literal["attention"] = "attention"
    heads: Literal["mean", "map", "relations"] = "mean"
    distance: Literal["mse", "kl"] = "kl"
    relation_heads: Annotated[int, Field(gt=0)] = 1

    zero_at_equality: ClassVar[bool] = True
    stationary_at_equality: ClassVar[bool] = True

    def check_widths(self, student: Widths, teacher: Widths) -> None:
        """Raise a UserError if the relation heads do not divide the widths."""
        if self.heads != "relations":
            return
        sizes = {
            f"{name} of the {owner}": size
            for owner, widths in (("student", student), ("teacher", teacher))
            for name, size in (("queries", widths.query), ("keys", widths.key_value))
        }
        misfits = [f"{n} ({size} wide)" for n, size in sizes.items() if size % self.relation_heads]
        if misfits:
            raise UserError(
                f"relation_heads: {self.relation_heads} does not divide the "
                f"{', the '.join(misfits)}. Take a divisor of {math.gcd(*sizes.values())}."
            )

    @property
    def unused_fields(self) -> Mapping[str, str]:
        """Fields of all layers, and the relation heads where attention is compared."""
        heads = {} if self.heads == "relations" else {"relation_heads": "`heads: relations`"}
        return {**super().unused_fields, **heads}

    @property
    def taps(self) -> tuple[Taps, Taps]:
        """Attention maps, or queries, keys and values of the paired layers."""
        names = {"mean": "mean_attention", "map": "attention", "relations": "projections"}
        student, teacher = (
            Taps(**{names[self.heads]: layers}) for layers in zip(*self.pairs, strict=True)
        )
        return student, teacher

    def pair_values(
        self, context: LossContext, pair: tuple[int, int], positions: TappedPositions
    ) -> Float32[Array, "B T"]:
        """Compute the distance at each query: a mean over heads, or over relations and heads."""
        assert context.teacher is not None, "needs attention of the teacher"
        distance = _DISTANCES[self.distance]
        # Queries that are not compared may hold anything, NaN too.
        is_compared = (positions.weight != 0)[:, None, :, None]
        values = []
        for teacher, student in self._map_pairs(context, context.teacher, pair):
            maps = positions.teacher_keys(teacher), positions.student_keys(student)
            compared = (jnp.where(is_compared, one, 0) for one in maps)
            values.append(distance(*compared).mean(axis=1))
        return jnp.mean(jnp.stack(values), axis=0)

    def _map_pairs(
        self, context: LossContext, teacher: HiddenSignal, pair: tuple[int, int]
    ) -> Iterator[MapPair]:
        """Yield the maps of teacher and student that are compared, of one number of heads."""
        own, other = context.student.taps, teacher.taps
        if self.heads == "mean":
            yield other.mean_attention[pair[1]][:, None], own.mean_attention[pair[0]][:, None]
        elif self.heads == "map":
            maps, student = other.attention[pair[1]], own.attention[pair[0]]
            num_heads = student.shape[1]
            yield maps[:, np.arange(num_heads) * maps.shape[1] // num_heads], student
        else:
            batches = teacher_batch(context.batch), context.batch
            for sides in zip(other.projections[pair[1]], own.projections[pair[0]], strict=True):
                maps = (
                    _relations(side, jnp.asarray(batch.segment_ids), self.relation_heads)
                    for side, batch in zip(sides, batches, strict=True)
                )
                yield next(maps), next(maps)


_DISTANCES = {"mse": attention_distances.squared_difference, "kl": attention_distances.kl}


@partial(jax.checkpoint, static_argnums=2)
def _relations(
    vectors: Float[Array, "B T X"], segment_ids: Int[Array, "B T"], num_heads: int
) -> Float32[Array, "B H T T"]:
    """Return softmax(x xᵀ / √channels) of each relation head, over earlier tokens of a segment."""
    batch, time, _ = vectors.shape
    vectors = jnp.where((segment_ids > 0)[..., None], vectors, 0)  # padding may hold anything
    heads = vectors.reshape(batch, time, num_heads, -1)
    scores = einsum_float32("bthc,bshc->bhts", heads, heads) * heads.shape[-1] ** -0.5
    is_visible = (segment_ids[:, :, None] == segment_ids[:, None, :]) & np.tri(time, dtype=bool)[
        None
    ]
    return jax.nn.softmax(jnp.where(is_visible[:, None], scores, -1e30), axis=-1)
