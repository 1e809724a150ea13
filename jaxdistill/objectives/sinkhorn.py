"""Sinkhorn divergence: the cost to transport the teacher's likely tokens to the student's.

Cuturi, 2013, https://arxiv.org/abs/1306.0895, solved by OTT-JAX, https://arxiv.org/abs/2201.12324.
The divergence is that library's: Feydy et al., 2019, https://arxiv.org/abs/1810.08278, and for
unbalanced transport Séjourné et al., 2019, https://arxiv.org/abs/1910.12958.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, Positive
from jaxdistill.objectives.needs import TEACHER_LOGITS, Needs
from jaxdistill.objectives.token_distribution import PerPosition, TokenDistribution

_REST_TOKEN_ID = jnp.iinfo(jnp.int32).min
"""Id, on both sides, of the outcome that stands for all tokens outside of the top k."""


class _TokenBytes(NamedTuple):
    values: UInt8[Array, "R N Y"]
    num_bytes: Int[Array, "R N"]


class _TopKTokens(NamedTuple):
    """The k likeliest tokens of one model."""

    probs: Float32[Array, "R N"]
    token_ids: Int[Array, "R N"]
    """The teacher's ids; below 0 for tokens that only the student has."""
    is_special: Bool[Array, "R N"]
    features: Any
    """`_TokenBytes`, or embeddings `[R, N, D]`, from which distances are computed."""


@OBJECTIVES.register
@configclass
class Sinkhorn(PositionObjective):
    """S(p, q) = C(p, q) − ½ C(p, p) − ½ C(q, q), with C the entropic cost of optimal transport.

    C alone is not least where student and teacher are equal: smoothing moves mass there, too, and
    that costs less for a student that is surer than the teacher.

    The distance of two tokens is 0 for equal ones and 1 for nothing in common. A special token has
    distance 1 to all but its exact match. Only the k likeliest tokens of both models are compared;
    the others are one more outcome on each side, at distance 1 from every token.

    Spans of several tokens are compared at their first tokens, which follow the same text on both
    sides.

    Attributes:
        cost: `letters`: the normalised edit distance of two tokens in bytes (of the first 16 of
            each). `embeddings`: 1 − cos of the angle between the rows of the teacher's LM head, at
            most 1; a token that the teacher does not have is the sum of its subtokens.
        k: Number of likeliest tokens.
        epsilon: Strength of the entropic smoothing; exact transport is the limit 0.
        num_iterations: Iterations of Sinkhorn's algorithm, the same at every position. A smaller
            `epsilon` needs more, most of all where both models nearly agree: at 0.2, 300 give the
            gradient there to rounding and 100 to 1 %; at 0.05, 100 leave it wrong by a quarter.
        relaxed: Price at which mass is created or destroyed instead of moved (unbalanced
            transport), without the outcome of the other tokens; null moves all mass.
    """

    type: Literal["sinkhorn"] = "sinkhorn"
    cost: Literal["letters", "embeddings"] = "letters"
    k: Annotated[int, Field(gt=0)] = 32
    epsilon: Positive = 0.2
    num_iterations: Annotated[int, Field(gt=0)] = 100
    relaxed: Positive | None = None

    needs: ClassVar[Needs] = Needs(teacher=TEACHER_LOGITS, vocab_tables=frozenset({"exact_match"}))
    zero_at_equality: ClassVar[bool] = True
    stationary_at_equality: ClassVar[bool] = True
    alignment: ClassVar[AlignmentRule] = AlignmentRule("spans", compare_at="first_token")

    @property
    def vocab_needs(self) -> frozenset[str]:
        """Exact matches; for embeddings also the subtokens, which come with the buckets."""
        return self.needs.vocab_tables | ({"buckets"} if self.cost == "embeddings" else set())

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the transport cost, less that of each side to itself."""
        assert teacher is not None, "needs teacher logits"
        p, q = self._top_k(student, teacher)
        between, *within = (self._transport_cost(*pair) for pair in ((p, q), (p, p), (q, q)))
        # 0 in balanced transport; in unbalanced transport the total masses may differ.
        mass_difference = p.probs.sum(axis=-1) - q.probs.sum(axis=-1)
        return between - sum(within) / 2 + self.epsilon / 2 * mass_difference**2

    def _top_k(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[_TopKTokens, _TopKTokens]:
        """Return the likeliest tokens of the teacher, and of the student."""
        (log_p, p_ids), (log_q, q_ids) = (
            jax.lax.top_k(one.log_probs(), min(self.k, one.logits.shape[-1]))
            for one in (teacher, student)
        )
        p_bytes, q_bytes = _token_bytes(teacher, p_ids), _token_bytes(student, q_ids)
        features = p_bytes, q_bytes
        if self.cost == "embeddings":
            assert teacher.output_embeddings is not None, "a run passes the teacher's LM head"
            # Both sides in the teacher's space, which is fixed: the student's own embeddings change
            # in training, and may start at random.
            embeddings, subtokens = teacher.output_embeddings, student.table("subtokens")[q_ids]
            features = embeddings[p_ids], _sum_subtoken_embeddings(subtokens, embeddings)
        matches = student.table("exact_match")[q_ids]
        q_ids = jnp.where(matches >= 0, matches, -1 - q_ids)
        p = _TopKTokens(jnp.exp(log_p), p_ids, p_bytes.num_bytes == 0, features[0])
        q = _TopKTokens(jnp.exp(log_q), q_ids, q_bytes.num_bytes == 0, features[1])
        return (p, q) if self.relaxed is not None else (_with_rest(p), _with_rest(q))

    def _transport_cost(self, source: _TopKTokens, target: _TopKTokens) -> PerPosition:
        """Compute the entropic cost of transport from one side to the other, or to itself."""
        distance = _edit_distance if self.cost == "letters" else losses.cosine_distance
        cost = distance(source.features, target.features)
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


def _token_bytes(distribution: TokenDistribution, ids: Int[Array, "R N"]) -> _TokenBytes:
    return _TokenBytes(distribution.table("token_bytes")[ids], distribution.table("num_bytes")[ids])


def _edit_distance(source: _TokenBytes, target: _TokenBytes) -> Float32[Array, "R N M"]:
    shape = (*source.num_bytes.shape, target.num_bytes.shape[-1])
    return losses.normalised_edit_distance(
        jnp.broadcast_to(source.values[:, :, None], (*shape, source.values.shape[-1])),
        jnp.broadcast_to(source.num_bytes[:, :, None], shape),
        jnp.broadcast_to(target.values[:, None], (*shape, target.values.shape[-1])),
        jnp.broadcast_to(target.num_bytes[:, None], shape),
    )


def _sum_subtoken_embeddings(
    subtokens: Int[Array, "R M N"], embeddings: Float[Array, "W D"]
) -> Float[Array, "R M D"]:
    """Sum the embeddings of each token's subtokens."""
    terms = (
        jnp.where(ids[..., None] >= 0, embeddings[ids], 0) for ids in jnp.moveaxis(subtokens, -1, 0)
    )
    return jnp.asarray(sum(terms))


def _with_rest(tokens: _TopKTokens) -> _TopKTokens:
    """Add all other tokens as one outcome, as far from every token as a special token is."""
    last = ((0, 0), (0, 1))
    rest = jnp.maximum(1 - jnp.sum(tokens.probs, axis=-1, keepdims=True), 0)
    return _TopKTokens(
        jnp.concatenate([tokens.probs, rest], axis=-1),
        jnp.pad(tokens.token_ids, last, constant_values=_REST_TOKEN_ID),
        jnp.pad(tokens.is_special, last, constant_values=True),
        jax.tree.map(lambda a: jnp.pad(a, (*last, *[(0, 0)] * (a.ndim - 2))), tokens.features),
    )
