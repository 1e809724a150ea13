"""Semantic transport: what it costs to turn the teacher's likely words into the student's.

Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013,
https://arxiv.org/abs/1306.0895, solved by OTT-JAX, https://arxiv.org/abs/2201.12324.
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int
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

    To move from a word to another costs from 0 for the same word to 1 for nothing in common; a mark
    is at distance 1 from all but its twin. Only the `k` likeliest words of both
    sides are looked at; all others are one more place on each side, which is at distance 1 from
    every word.

    Groups of several tokens are compared where they begin, for there both have read the same text.

    Args:
        cost: `letters`: the normalised edit distance of two words in bytes (of the first 16 of
            each); `embeddings`: 1 − cos of the angle between what the teacher's head has of them,
            and at most 1. A word that it does not have is the sum of the words it is written in.
        k: How many of the likeliest words.
        epsilon: How much the plan is smoothed; exact transport at 0.
        num_iterations: Of Sinkhorn's algorithm, as many for every place.
        relaxed: Lets mass be lost and made at this price instead of moving it, and leaves the
            unlikely words out; null moves all.
    """

    type: Literal["sinkhorn"] = "sinkhorn"
    cost: Literal["letters", "embeddings"] = "letters"
    k: Annotated[int, Field(gt=0)] = 32
    epsilon: _Positive = 0.05
    num_iterations: Annotated[int, Field(gt=0)] = 50
    relaxed: _Positive | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    @property
    def lookups(self) -> frozenset[str]:
        """For embeddings, what the student's words are written in, too."""
        return self.needs & {"words"} | ({"places"} if self.cost == "embeddings" else set())

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
        cost = self._cost(student, teacher, mine, theirs)
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

    def _cost(
        self,
        student: RowLogits,
        teacher: RowLogits,
        mine: Int[Array, "R M"],
        theirs: Int[Array, "R N"],
    ) -> Float32[Array, "R N M"]:
        """What it costs to move each of the teacher's words to each of the student's."""
        distance = _by_letters if self.cost == "letters" else _by_embeddings
        cost = distance(student, teacher, mine, theirs)
        is_mark = (teacher.sizes[theirs] == 0)[:, :, None] | (student.sizes[mine] == 0)[:, None]
        is_twin = student.twins[mine][:, None] == theirs[:, :, None]
        return jnp.where(is_twin, 0, jnp.where(is_mark, 1, cost))


def _by_letters(
    student: RowLogits, teacher: RowLogits, mine: Int[Array, "R M"], theirs: Int[Array, "R N"]
) -> Float32[Array, "R N M"]:
    shape = (*theirs.shape, mine.shape[-1])
    left, right = teacher.letters[theirs], student.letters[mine]
    return losses.normalised_edit_distance(
        jnp.broadcast_to(left[:, :, None], (*shape, left.shape[-1])),
        jnp.broadcast_to(teacher.sizes[theirs][:, :, None], shape),
        jnp.broadcast_to(right[:, None], (*shape, right.shape[-1])),
        jnp.broadcast_to(student.sizes[mine][:, None], shape),
    )


def _by_embeddings(
    student: RowLogits, teacher: RowLogits, mine: Int[Array, "R M"], theirs: Int[Array, "R N"]
) -> Float32[Array, "R N M"]:
    assert teacher.embeddings is not None, "the wall shows the teacher's embeddings"
    # All in the teacher's space, which stands still: the student's own embeddings move while it
    # learns, and may begin at random.
    table = jax.lax.stop_gradient(teacher.embeddings)
    written = jnp.moveaxis(student.pieces[mine], -1, 0)
    pieces = (jnp.where(piece[..., None] >= 0, table[piece], 0) for piece in written)
    return losses.cosine_distance(table[theirs], jnp.asarray(sum(pieces)))


def _rest(probs: Float32[Array, "R N"]) -> Float32[Array, "R 1"]:
    return jnp.maximum(1 - jnp.sum(probs, axis=-1, keepdims=True), 0)
