"""Semantic transport: what it costs to turn the teacher's likely words into the student's.

Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013,
https://arxiv.org/abs/1306.0895, solved by OTT-JAX, https://arxiv.org/abs/2201.12324. What is
minimised is the Sinkhorn divergence as that library has it: Feydy et al., "Interpolating between
Optimal Transport and MMD using Sinkhorn Divergences", 2019, https://arxiv.org/abs/1810.08278, and
where mass may be lost Séjourné et al., 2019, https://arxiv.org/abs/1910.12958.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, TokenDistribution

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_REST_TOKEN_ID = jnp.iinfo(jnp.int32).min
"""The number, on both sides, of the place of all words that are not looked at."""


@OBJECTIVES.register
@configclass
class Sinkhorn(PositionObjective):
    """S(p, q) = C(p, q) − ½ C(p, p) − ½ C(q, q), with C the smoothed cost of moving probabilities.

    C alone would not be least where the student says what the teacher says: smoothing moves mass
    there, too, and that costs less for a student that is surer than the teacher.

    To move from a word to another costs from 0 for the same word to 1 for nothing in common; a mark
    is at distance 1 from all but its twin. Only the `k` likeliest words of both sides are looked
    at; all others are one more place on each side, which is at distance 1 from every word.

    Groups of several tokens are compared where they begin, for there both have read the same text.

    Args:
        cost: `letters`: the normalised edit distance of two words in bytes (of the first 16 of
            each); `embeddings`: 1 − cos of the angle between what the teacher's head has of them,
            and at most 1. A word that it does not have is the sum of the words it is written in.
        k: How many of the likeliest words.
        epsilon: How much the plan is smoothed; it tends to exact transport as this tends to 0.
        num_iterations: Of Sinkhorn's algorithm, as many for every place. A smaller `epsilon` needs
            more, most of all where both sides nearly agree: 100 are enough at 0.2, and at 0.05 the
            gradient there is wrong by a quarter.
        relaxed: Lets mass be lost and made at this price instead of moving it, and leaves the
            unlikely words out; null moves all.
    """

    type: Literal["sinkhorn"] = "sinkhorn"
    cost: Literal["letters", "embeddings"] = "letters"
    k: Annotated[int, Field(gt=0)] = 32
    epsilon: _Positive = 0.2
    num_iterations: Annotated[int, Field(gt=0)] = 100
    relaxed: _Positive | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "words"})

    @property
    def vocab_needs(self) -> frozenset[str]:
        """For embeddings, what the student's words are written in, too."""
        return self.needs & {"words"} | ({"places"} if self.cost == "embeddings" else set())

    @property
    def alignment_rule(self) -> AlignmentRule:
        """Groups of tokens that stand for the same text, where they begin."""
        return AlignmentRule("spans", compare_at="begins")

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """The cost beyond that of each side with itself."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        p, q = self._top_k(student, teacher)
        between, *alone = (self._transport_cost(*pair) for pair in ((p, q), (p, p), (q, q)))
        # Zero unless mass may be lost; then both sides may have unlike totals.
        unlike = self.epsilon / 2 * (p.probs.sum(axis=-1) - q.probs.sum(axis=-1)) ** 2
        return between - sum(alone) / 2 + unlike

    def _top_k(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple["_TopKTokens", "_TopKTokens"]:
        (log_p, theirs), (log_q, mine) = (
            jax.lax.top_k(side.log_probs(), min(self.k, side.logits.shape[-1]))
            for side in (teacher, student)
        )
        sizes = teacher.num_bytes[theirs], student.num_bytes[mine]
        if self.cost == "letters":
            looks = (teacher.token_bytes[theirs], sizes[0]), (student.token_bytes[mine], sizes[1])
        else:
            assert teacher.output_embeddings is not None, "the wall shows the teacher's embeddings"
            # All in the teacher's space, which stands still: the student's own embeddings move
            # while it learns, and may begin at random.
            table = teacher.output_embeddings
            looks = table[theirs], _sum_subtoken_embeddings(student.subtokens[mine], table)
        twins = student.exact_match[mine]
        numbers = theirs, jnp.where(twins >= 0, twins, -1 - mine)
        probs = jnp.exp(log_p), jnp.exp(log_q)
        p, q = map(_TopKTokens, probs, numbers, (size == 0 for size in sizes), looks)
        return (p, q) if self.relaxed is not None else (_with_rest(p), _with_rest(q))

    def _transport_cost(self, source: "_TopKTokens", target: "_TopKTokens") -> Float32[Array, " R"]:
        """The smoothed cost of moving one side's probabilities to another's, or to its own."""
        cost = (_edit_distance if self.cost == "letters" else losses.cosine_distance)(
            source.features, target.features
        )
        cost = jnp.where(source.is_special[:, :, None] | target.is_special[:, None], 1, cost)
        cost = jnp.where(source.token_ids[:, :, None] == target.token_ids[:, None], 0, cost)
        return losses.entropic_transport_cost(
            source.probs,
            target.probs,
            cost,
            epsilon=self.epsilon,
            num_iterations=self.num_iterations,
            relaxed=self.relaxed,
        )


class _TopKTokens(NamedTuple):
    """The likeliest words of one side.

    Attributes:
        probs: How likely they are.
        numbers: The teacher's number of each; below 0 for words that only the student has.
        is_special: Whether they stand for no text.
        looks: What says how far they are from others: letters and how many, or embeddings.
    """

    probs: Float32[Array, "R N"]
    token_ids: Int[Array, "R N"]
    is_special: Bool[Array, "R N"]
    features: Any


def _edit_distance(source: Any, target: Any) -> Float32[Array, "R N M"]:
    (left, left_lengths), (right, right_lengths) = source, target
    shape = (*left_lengths.shape, right_lengths.shape[-1])
    return losses.normalised_edit_distance(
        jnp.broadcast_to(left[:, :, None], (*shape, left.shape[-1])),
        jnp.broadcast_to(left_lengths[:, :, None], shape),
        jnp.broadcast_to(right[:, None], (*shape, right.shape[-1])),
        jnp.broadcast_to(right_lengths[:, None], shape),
    )


def _sum_subtoken_embeddings(
    subtokens: Int[Array, "R M N"], embeddings: Float[Array, "W D"]
) -> Float[Array, "R M D"]:
    """The sum of what the table has of the pieces of each word."""
    found = (
        jnp.where(piece[..., None] >= 0, embeddings[piece], 0)
        for piece in jnp.moveaxis(subtokens, -1, 0)
    )
    return jnp.asarray(sum(found))


def _with_rest(tokens: _TopKTokens) -> _TopKTokens:
    """All other words are one more place, which is as far from every word as a mark."""
    last = ((0, 0), (0, 1))
    others = jnp.maximum(1 - jnp.sum(tokens.probs, axis=-1, keepdims=True), 0)
    return _TopKTokens(
        jnp.concatenate([tokens.probs, others], axis=-1),
        jnp.pad(tokens.token_ids, last, constant_values=_REST_TOKEN_ID),
        jnp.pad(tokens.is_special, last, constant_values=True),
        jax.tree.map(lambda a: jnp.pad(a, (*last, *[(0, 0)] * (a.ndim - 2))), tokens.features),
    )
