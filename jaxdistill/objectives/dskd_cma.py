"""Dual-space knowledge distillation of two tokenizers, by cross-model attention (CMA).

Zhang et al., "Dual-Space Knowledge Distillation for Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2406.17328.
"""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES
from jaxdistill.objectives.dskd import DualSpace, ProjectedHidden
from jaxdistill.objectives.forward_kl import ForwardKL
from jaxdistill.objectives.logits import einsum_float32
from jaxdistill.objectives.modules import init_linear, linear, zero_unscored
from jaxdistill.objectives.token_distribution import PerPosition, TokenDistribution
from jaxdistill.objectives.weights import teacher_batch
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, HiddenSignal, Params

_STD_EPSILON = 1e-6


@configclass
class _TeacherCorrectKL(ForwardKL):
    """KL(p‖q) where the label is the likeliest token under p; 0 elsewhere."""

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        assert teacher is not None, "needs teacher logits"
        is_correct = jnp.argmax(teacher.logits, axis=-1) == teacher.labels
        return jnp.where(is_correct, super().values(student, teacher), 0)


@OBJECTIVES.register
@configclass
class CrossModelAttention(DualSpace):
    """`dskd` for two tokenizers: attention finds which positions of two completions correspond.

    A position attends by the embeddings of its token x and its label y:
    query = linear[emb(x); emb(y)] of the student, key = n[emb(x); emb(y)] of the teacher. Values
    are linear(n(h) + n(emb(y))) of the teacher's hidden states h, and linear(h) of the student's.
    A softmax over the teacher's positions carries values to the student; a softmax of the same
    scores over the student's positions carries values to the teacher. The student learns only
    where the values that it gets predict the label. As in the authors' code, the teacher's values
    contain the label, and positions attend to later ones.

    Here `n` divides by the standard deviation at each position. The authors take that of the whole
    batch, so that an example depends on the others in its batch.
    """

    type: Literal["dskd_cma"] = "dskd_cma"
    student_space_kl = _TeacherCorrectKL

    @property
    def is_cross_tokenizer(self) -> bool:
        """True: attention replaces the token alignment."""
        return True

    def init(self, key: Array, student: Widths, teacher: Widths) -> Params:
        """Initialise the two projections and the query projection."""
        projection_key, query_key = jax.random.split(key)
        return {
            **super().init(projection_key, student, teacher),
            "query": init_linear(query_key, 2 * student.hidden, 2 * teacher.hidden),
        }

    def _scored_batches(self, batch: Batch) -> tuple[Batch, Batch]:
        read = teacher_batch(batch)
        mask = _attention_mask(batch, read)
        # Positions that have nothing to attend to are left out.
        return (
            replace(batch, loss_mask=batch.loss_mask * mask.any(axis=2), alignment=None),
            replace(read, loss_mask=read.loss_mask * mask.any(axis=1), alignment=None),
        )

    def _project_hidden(
        self, modules: Params, student: HiddenSignal, teacher: HiddenSignal, batch: Batch
    ) -> ProjectedHidden:
        read = teacher_batch(batch)
        student_embeddings = jnp.concatenate(_token_and_label_embeddings(student, batch), axis=-1)
        token_embeddings, label_embeddings = _token_and_label_embeddings(teacher, read)
        queries = linear(modules["query"], student_embeddings)
        keys = _divide_by_std(jnp.concatenate([token_embeddings, label_embeddings], axis=-1))
        scores = einsum_float32("btd,bsd->bts", queries, keys) * keys.shape[-1] ** -0.5
        scores = jnp.where(_attention_mask(batch, read), scores, -1e9)
        teacher_hidden = _divide_by_std(zero_unscored(teacher.hidden, read))
        to_student = linear(
            modules["to_student"], teacher_hidden + _divide_by_std(label_embeddings)
        )
        to_teacher = linear(modules["to_teacher"], zero_unscored(student.hidden, batch))
        return (
            einsum_float32("bts,bsd->btd", jax.nn.softmax(scores, axis=2), to_student),
            einsum_float32("bts,btd->bsd", jax.nn.softmax(scores, axis=1), to_teacher),
        )


def _attention_mask(student_batch: Batch, teacher_batch: Batch) -> Bool[Array, "B T S"]:
    """Return which positions attend to each other: scored ones of one segment."""
    is_scored = [jnp.asarray(one.loss_mask) != 0 for one in (student_batch, teacher_batch)]
    segments = [jnp.asarray(one.segment_ids) for one in (student_batch, teacher_batch)]
    is_same_segment = segments[0][:, :, None] == segments[1][:, None, :]
    return is_same_segment & is_scored[0][:, :, None] & is_scored[1][:, None, :]


def _token_and_label_embeddings(
    signal: HiddenSignal, batch: Batch
) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"]]:
    """Return the input embeddings of the token and of the label at each scored position."""
    assert signal.embedding is not None, "a run passes the embedding of both models"
    embed = jax.lax.stop_gradient(signal.embedding)
    tokens, labels = (
        zero_unscored(embed(jnp.asarray(ids)), batch) for ids in (batch.tokens, batch.labels)
    )
    return tokens, labels


def _divide_by_std(vectors: Float[Array, "B T D"]) -> Float32[Array, "B T D"]:
    values = vectors.astype(jnp.float32)
    return values / (jnp.std(values, axis=-1, keepdims=True) + _STD_EPSILON)
