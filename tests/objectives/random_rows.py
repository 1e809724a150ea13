"""Random rows, heads and a dense double of the wall, for tests on tiny shapes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.objectives import PositionObjective, TokenDistribution, weighted_loss
from jaxdistill.objectives.compaction import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead, VocabTables

GROUPS, ROWS, WORDS, WIDTH, TEACHER_WIDTH = 2, 10, 33, 8, 12
_NUMBERS = np.arange(WORDS)
TWINS = VocabTables(
    exact_match=np.where(_NUMBERS % 3, _NUMBERS, -1),
    token_bytes=np.stack([_NUMBERS, _NUMBERS % 5], axis=1).astype(np.uint8),
    num_bytes=1 + _NUMBERS % 2,
    is_word_boundary=_NUMBERS % 3 == 0,
    subtokens=np.stack(
        [np.where(_NUMBERS % 3, _NUMBERS, _NUMBERS // 2), np.where(_NUMBERS % 3, -1, 1)], axis=1
    ),
    buckets=np.stack([_NUMBERS // 2, np.where(_NUMBERS % 4, -1, _NUMBERS // 3)], axis=1),
    bucket_token=np.append(-1, 2 * np.arange(1, (WORDS + 1) // 2)),
    nearest_token=_NUMBERS,
)
"""Two words of three are known to both sides; all have a letter of their own, and some a second.

Of their shared space two beside each other have one place, and are named for the first.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Case:
    """What the wall is given besides objectives: one pytree, so that `measure` compiles once."""

    student_hidden: jax.Array
    student_lm_head: LMHead
    labels: jax.Array
    mask: jax.Array
    teacher_hidden: jax.Array
    teacher_lm_head: LMHead

    def arguments(self) -> tuple[AlignedPositions, LMHead, LMHead]:
        """What `weighted_loss` takes after the objectives and their coefficients."""
        student = ModelPositions(self.student_hidden, self.labels)
        teacher = ModelPositions(self.teacher_hidden, self.labels)
        return (
            AlignedPositions(student, teacher, self.mask),
            self.student_lm_head,
            self.teacher_lm_head,
        )

    def without_teacher(self) -> tuple[AlignedPositions, LMHead]:
        """The same where there is none."""
        return AlignedPositions(
            ModelPositions(self.student_hidden, self.labels), None, self.mask
        ), self.student_lm_head

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)


def random_case(key: jax.Array, groups: int = GROUPS, rows: int = ROWS) -> Case:
    """Rows of which about half count, one of them twice; heads without padding."""
    keys = iter(jax.random.split(key, 6))

    def head(width: int) -> LMHead:
        matrix = jax.random.normal(next(keys), (WORDS, width))
        return LMHead(matrix, vocab_tables=TWINS, vocab_size=WORDS)

    mask = (jax.random.uniform(next(keys), (groups, rows)) < 0.5).astype(jnp.float32)
    return Case(
        student_hidden=jax.random.normal(next(keys), (groups, rows, WIDTH)),
        student_lm_head=head(WIDTH),
        labels=jax.random.randint(next(keys), (groups, rows), 0, WORDS),
        mask=mask.at[0, 0].set(2.0),
        teacher_hidden=jax.random.normal(next(keys), (groups, rows, TEACHER_WIDTH)),
        teacher_lm_head=head(TEACHER_WIDTH),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk_rows")
def measure(
    objectives: tuple[PositionObjective, ...], case: Case, *, chunk_rows: int = 4
) -> tuple[jax.Array, Case]:
    """The loss with coefficients 1, and its gradient to everything that a gradient could reach."""

    def loss(case: Case) -> jax.Array:
        ones = jnp.ones(len(objectives))
        return weighted_loss(objectives, ones, *case.arguments(), chunk_size=chunk_rows)[0]

    return jax.value_and_grad(loss, allow_int=True)(case)


def dense_sums(objectives: tuple[PositionObjective, ...], case: Case) -> jax.Array:
    """The sum of each objective with all logits at once, as nobody should do it."""
    sides = []
    for hidden, head in [
        (case.student_hidden, case.student_lm_head),
        (case.teacher_hidden, case.teacher_lm_head),
    ]:
        scores = hidden.reshape(-1, hidden.shape[-1]) @ head.matrix.T
        if head.bias is not None:
            scores = scores + jnp.broadcast_to(head.bias, scores.shape)
        scores = scores * head.scale
        if head.soft_cap is not None:
            scores = head.soft_cap * jnp.tanh(scores / head.soft_cap)
        sides.append(
            TokenDistribution(
                scores[:, : head.vocab_size],
                case.labels.ravel(),
                vocab_tables=head.vocab_tables,
                output_embeddings=head.matrix,
            )
        )
    values = [objective.values(*sides) for objective in objectives]
    return jnp.stack([jnp.sum(case.mask.ravel() * column) for column in values])
