"""Dual-space distillation of two tokenizers: attention finds which places of an answer correspond.

Cross-model attention (CMA) of Zhang et al., "Dual-Space Knowledge Distillation for Large Language
Models", EMNLP 2024, https://arxiv.org/abs/2406.17328.
"""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, TokenDistribution
from jaxdistill.objectives.batch_objective import init_linear, linear, zero_unscored
from jaxdistill.objectives.dual_space import DualSpace, ProjectedHidden
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.types import Batch, HiddenSignal, Params

_STD_EPSILON = 1e-6


@OBJECTIVES.register
@configclass
class CrossModelAttention(DualSpace):
    """As `dskd`, where attention finds which places of the two answers correspond.

    Every place looks for its counterparts by what is read there and what follows.

    query = linear[emb(x); emb(y)] of the student, key = n[emb(x); emb(y)] of the teacher, and
    values are linear(n(h) + n(emb(y))) of the teacher, linear(h) of the student. The same scores
    are normalised over the teacher's places on the way to the student, and the other way over the
    student's. The student learns only where what comes to it says the word that follows.
    As with its authors the teacher's values know that word, and no place is hidden from earlier
    ones.

    Here `n` divides by the standard deviation at each place. The authors take that of the whole
    batch, by which rows would depend on who shares it with them.
    """

    type: Literal["dskd_cma"] = "dskd_cma"

    @property
    def is_cross_tokenizer(self) -> bool:
        """By attention, whatever groups other objectives want."""
        return True

    def init(self, key: Array, student_dim: int, teacher_dim: int) -> Params:
        """The two projections, and what makes queries."""
        projections, query = jax.random.split(key)
        return {
            **super().init(projections, student_dim, teacher_dim),
            "query": init_linear(query, 2 * student_dim, 2 * teacher_dim),
        }

    @property
    def _student_space_kl(self) -> PositionObjective:
        return _TeacherCorrectKL(temperature=self.temperature)

    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        there = _teacher_batch(batch)
        meet = _attention_mask(batch, there)
        return _restrict_loss_mask(batch, meet.any(axis=2)), _restrict_loss_mask(
            there, meet.any(axis=1)
        )

    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        there = _teacher_batch(batch)
        meet = _attention_mask(batch, there)
        read, follows = _token_and_label_embeddings(student, batch)
        queries = linear(modules["query"], jnp.concatenate([read, follows], axis=-1))
        read, follows = _token_and_label_embeddings(teacher, there)
        keys = _divide_by_std(jnp.concatenate([read, follows], axis=-1))
        scores = einsum_float32("btd,bsd->bts", queries, keys) * keys.shape[-1] ** -0.5
        scores = jnp.where(meet, scores, -1e9)
        known = _divide_by_std(zero_unscored(teacher.hidden, there)) + _divide_by_std(follows)
        to_student = linear(modules["to_student"], known)
        to_teacher = linear(modules["to_teacher"], zero_unscored(student.hidden, batch))
        return ProjectedHidden(
            einsum_float32("bts,bsd->btd", jax.nn.softmax(scores, axis=2), to_student),
            einsum_float32("bts,btd->bsd", jax.nn.softmax(scores, axis=1), to_teacher),
        )


@configclass
class _TeacherCorrectKL(ForwardKL):
    """KL(p‖q) where the word that `p` finds likeliest is the one that follows."""

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        is_right = jnp.argmax(teacher.logits, axis=-1) == teacher.labels
        return jnp.where(is_right, super().values(student, teacher), 0)


def _teacher_batch(batch: Batch) -> Batch:
    return batch if batch.alignment is None else batch.alignment.teacher


def _attention_mask(student_batch: Batch, teacher_batch: Batch) -> Bool[Array, "B T S"]:
    """Which places may look at each other: those that count, of one row."""
    counts = [jnp.asarray(side.loss_mask) != 0 for side in (student_batch, teacher_batch)]
    segments = [jnp.asarray(side.segment_ids) for side in (student_batch, teacher_batch)]
    is_same_row = segments[0][:, :, None] == segments[1][:, None, :]
    return is_same_row & counts[0][:, :, None] & counts[1][:, None, :]


def _restrict_loss_mask(batch: Batch, is_kept: Bool[Array, "B T"]) -> Batch:
    """Without the places that have nothing to look at."""
    return replace(batch, loss_mask=batch.loss_mask * is_kept, pairing=None)


def _token_and_label_embeddings(
    signal: HiddenSignal, batch: Batch
) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"]]:
    """What stands for the token that is read at each place, and for the one that follows."""
    assert signal.embedding is not None, "whoever runs a model tells what it reads"
    embed = jax.lax.stop_gradient(signal.embedding)
    read, follows = (
        zero_unscored(embed(jnp.asarray(t)), batch) for t in (batch.tokens, batch.labels)
    )
    return read, follows


def _divide_by_std(vectors: Float[Array, "B T D"]) -> Float32[Array, "B T D"]:
    values = vectors.astype(jnp.float32)
    return values / (jnp.std(values, axis=-1, keepdims=True) + _STD_EPSILON)
