"""Semantic transport: what it costs to turn the teacher's likely words into the student's.

Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013,
https://arxiv.org/abs/1306.0895, solved by OTT-JAX, https://arxiv.org/abs/2201.12324.
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits, RowObjective

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@OBJECTIVES.register
@configclass
class Sinkhorn(RowObjective):
    """The smoothed cost of moving the teacher's probabilities to the student's.

    To move from a word to another costs their normalised edit distance in bytes (of the first 16 of
    each), from 0 for the same word to 1 for nothing in common; a mark is at distance 1 from all
    but its twin. Only the `k` likeliest words of both sides are looked at; all others are one more
    place on each side, which is at distance 1 from every word.

    Groups of several tokens are compared where they begin, for there both have read the same text.

    Args:
        k: How many of the likeliest words.
        epsilon: How much the plan is smoothed; exact transport at 0.
        num_iterations: Of Sinkhorn's algorithm, as many for every place.
        relaxed: Lets mass be lost and made at this price instead of moving it, and leaves the
            unlikely words out; null moves all.
    """

    type: Literal["sinkhorn"] = "sinkhorn"
    k: Annotated[int, Field(gt=0)] = 32
    epsilon: _Positive = 0.05
    num_iterations: Annotated[int, Field(gt=0)] = 50
    relaxed: _Positive | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    @property
    def alignment(self) -> Alignment:
        """Groups of tokens that stand for the same text, where they begin."""
        return Alignment("spans", at="begins")

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """The cost of the smoothed plan."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        (p, theirs), (q, mine) = (
            jax.lax.top_k(side.log_probs(), min(self.k, side.logits.shape[-1]))
            for side in (teacher, student)
        )
        p, q = jnp.exp(p), jnp.exp(q)
        letters = [
            (side.letters[words], side.sizes[words])
            for side, words in ((teacher, theirs), (student, mine))
        ]
        shape = (*theirs.shape, mine.shape[-1])
        (left, left_sizes), (right, right_sizes) = letters
        cost = losses.normalised_edit_distance(
            jnp.broadcast_to(left[:, :, None], (*shape, left.shape[-1])),
            jnp.broadcast_to(left_sizes[:, :, None], shape),
            jnp.broadcast_to(right[:, None], (*shape, right.shape[-1])),
            jnp.broadcast_to(right_sizes[:, None], shape),
        )
        is_mark = (left_sizes == 0)[:, :, None] | (right_sizes == 0)[:, None]
        is_twin = student.twins[mine][:, None] == theirs[:, :, None]
        cost = jnp.where(is_twin, 0, jnp.where(is_mark, 1, cost))
        if self.relaxed is None:
            p, q = (jnp.concatenate([x, _rest(x)], axis=-1) for x in (p, q))
            cost = jnp.pad(cost, ((0, 0), (0, 1), (0, 1)), constant_values=1.0)
            cost = cost.at[:, -1, -1].set(0)
        return losses.transport_cost(
            p,
            q,
            cost,
            epsilon=self.epsilon,
            num_iterations=self.num_iterations,
            relaxed=self.relaxed,
        )


def _rest(probs: Float32[Array, "R N"]) -> Float32[Array, "R 1"]:
    return jnp.maximum(1 - jnp.sum(probs, axis=-1, keepdims=True), 0)
