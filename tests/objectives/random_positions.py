"""Random positions and LM heads, and a dense version of the chunked loss, for tiny tests."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.objectives import PositionObjective, TokenDistribution, weighted_loss
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead, VocabTables

SHARDS, POSITIONS, VOCAB_SIZE, WIDTH, TEACHER_WIDTH = 2, 10, 33, 8, 12
_TOKENS = np.arange(VOCAB_SIZE)
VOCAB_TABLES = VocabTables(
    exact_match=np.where(_TOKENS % 3, _TOKENS, -1),
    token_bytes=np.stack([_TOKENS, _TOKENS % 5], axis=1).astype(np.uint8),
    num_bytes=1 + _TOKENS % 2,
    is_word_boundary=_TOKENS % 3 == 0,
    subtokens=np.stack(
        [np.where(_TOKENS % 3, _TOKENS, _TOKENS // 2), np.where(_TOKENS % 3, -1, 1)], axis=1
    ),
    buckets=np.stack([_TOKENS // 2, np.where(_TOKENS % 4, -1, _TOKENS // 3)], axis=1),
    bucket_token=np.append(-1, 2 * np.arange(1, (VOCAB_SIZE + 1) // 2)),
    nearest_token=_TOKENS,
)
"""Two tokens of three have an exact match; all have a byte of their own, and some a second.

Two neighbouring tokens share a bucket, which is named for the first.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Case:
    """Inputs of `weighted_loss` besides objectives: one pytree, so that `measure` compiles once.

    Arrays are NumPy's, except those of LM heads, so that changing a case compiles nothing.
    """

    student_hidden: Any
    student_lm_head: LMHead
    labels: Any
    loss_mask: Any
    teacher_hidden: Any
    teacher_lm_head: LMHead

    def arguments(self) -> tuple[AlignedPositions, LMHead, LMHead]:
        """Arguments of `weighted_loss` after the objectives and their coefficients."""
        labels = jnp.asarray(self.labels)
        student = ModelPositions(jnp.asarray(self.student_hidden), labels)
        teacher = ModelPositions(jnp.asarray(self.teacher_hidden), labels)
        positions = AlignedPositions(student, teacher, jnp.asarray(self.loss_mask))
        return positions, self.student_lm_head, self.teacher_lm_head

    def without_teacher(self) -> tuple[AlignedPositions, LMHead]:
        """The same arguments without a teacher."""
        positions, lm_head, _ = self.arguments()
        return dataclasses.replace(positions, teacher=None), lm_head

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)


def random_case(seed: int = 1, shards: int = SHARDS, positions: int = POSITIONS) -> Case:
    """About half of the positions are scored, one with weight 2; LM heads have no padding."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def lm_head(width: int) -> LMHead:
        matrix = jnp.asarray(normal(VOCAB_SIZE, width))
        return LMHead(matrix, vocab_tables=VOCAB_TABLES, vocab_size=VOCAB_SIZE)

    loss_mask = np.float32(random.uniform(size=(shards, positions)) < 0.5)
    loss_mask[0, 0] = 2
    return Case(
        student_hidden=normal(shards, positions, WIDTH),
        student_lm_head=lm_head(WIDTH),
        labels=random.integers(0, VOCAB_SIZE, (shards, positions)).astype(np.int32),
        loss_mask=loss_mask,
        teacher_hidden=normal(shards, positions, TEACHER_WIDTH),
        teacher_lm_head=lm_head(TEACHER_WIDTH),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk_size")
def measure_terms(
    objectives: tuple[PositionObjective, ...],
    case: Case,
    coefficients: np.ndarray,
    *,
    chunk_size: int = 4,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Case, jax.Array]]:
    """Compute `weighted_loss`, and the loss's gradients to every input and every coefficient."""

    def loss(case: Case, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        return weighted_loss(objectives, coefficients, *case.arguments(), chunk_size=chunk_size)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
    return gradient(case, coefficients)


def measure(
    objectives: tuple[PositionObjective, ...], case: Case, *, chunk_size: int = 4
) -> tuple[np.ndarray, Case]:
    """Compute the loss with coefficients 1, and its gradient to every input, as NumPy arrays."""
    ones = np.ones(len(objectives), np.float32)
    (loss, _), (gradient, _) = measure_terms(objectives, case, ones, chunk_size=chunk_size)
    return jax.device_get((loss, gradient))


@functools.partial(jax.jit, static_argnums=0)
def dense_sums(objectives: tuple[PositionObjective, ...], case: Case) -> jax.Array:
    """Compute the sum of each objective from all logits at once."""
    distributions = []
    for hidden, lm_head in [
        (case.student_hidden, case.student_lm_head),
        (case.teacher_hidden, case.teacher_lm_head),
    ]:
        logits = hidden.reshape(-1, hidden.shape[-1]) @ lm_head.matrix.T
        if lm_head.bias is not None:
            logits = logits + jnp.broadcast_to(lm_head.bias, logits.shape)
        logits = logits * lm_head.scale
        if lm_head.soft_cap is not None:
            logits = lm_head.soft_cap * jnp.tanh(logits / lm_head.soft_cap)
        distributions.append(
            TokenDistribution(
                logits[:, : lm_head.vocab_size],
                case.labels.ravel(),
                vocab_tables=lm_head.vocab_tables,
                output_embeddings=lm_head.matrix,
            )
        )
    values = [objective.values(*distributions) for objective in objectives]
    return jnp.stack([jnp.sum(case.loss_mask.ravel() * column) for column in values])
