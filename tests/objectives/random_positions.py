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
    """Inputs of `weighted_loss` besides objectives: one pytree, so that `measure` compiles once."""

    student_hidden: jax.Array
    student_lm_head: LMHead
    labels: jax.Array
    loss_mask: jax.Array
    teacher_hidden: jax.Array
    teacher_lm_head: LMHead

    def arguments(self) -> tuple[AlignedPositions, LMHead, LMHead]:
        """Arguments of `weighted_loss` after the objectives and their coefficients."""
        student = ModelPositions(self.student_hidden, self.labels)
        teacher = ModelPositions(self.teacher_hidden, self.labels)
        positions = AlignedPositions(student, teacher, self.loss_mask)
        return positions, self.student_lm_head, self.teacher_lm_head

    def without_teacher(self) -> tuple[AlignedPositions, LMHead]:
        """The same arguments without a teacher."""
        student = ModelPositions(self.student_hidden, self.labels)
        return AlignedPositions(student, None, self.loss_mask), self.student_lm_head

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)


def random_case(key: jax.Array, shards: int = SHARDS, positions: int = POSITIONS) -> Case:
    """About half of the positions are scored, one with weight 2; LM heads have no padding."""
    keys = iter(jax.random.split(key, 6))

    def lm_head(width: int) -> LMHead:
        matrix = jax.random.normal(next(keys), (VOCAB_SIZE, width))
        return LMHead(matrix, vocab_tables=VOCAB_TABLES, vocab_size=VOCAB_SIZE)

    loss_mask = (jax.random.uniform(next(keys), (shards, positions)) < 0.5).astype(jnp.float32)
    return Case(
        student_hidden=jax.random.normal(next(keys), (shards, positions, WIDTH)),
        student_lm_head=lm_head(WIDTH),
        labels=jax.random.randint(next(keys), (shards, positions), 0, VOCAB_SIZE),
        loss_mask=loss_mask.at[0, 0].set(2.0),
        teacher_hidden=jax.random.normal(next(keys), (shards, positions, TEACHER_WIDTH)),
        teacher_lm_head=lm_head(TEACHER_WIDTH),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk_size")
def measure(
    objectives: tuple[PositionObjective, ...], case: Case, *, chunk_size: int = 4
) -> tuple[jax.Array, Case]:
    """Compute the loss with coefficients 1, and its gradient to every input."""

    def loss(case: Case) -> jax.Array:
        ones = jnp.ones(len(objectives))
        return weighted_loss(objectives, ones, *case.arguments(), chunk_size=chunk_size)[0]

    return jax.value_and_grad(loss, allow_int=True)(case)


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
