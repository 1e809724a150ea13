"""Random rows, heads and a dense double of the wall, for tests on tiny shapes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.objectives import RowLogits, RowObjective, weighted_loss
from jaxdistill.objectives.rows import Rows, Side
from jaxdistill.types import Head, Lexicon

GROUPS, ROWS, WORDS, WIDTH, TEACHER_WIDTH = 2, 10, 33, 8, 12
_NUMBERS = np.arange(WORDS)
TWINS = Lexicon(
    twins=np.where(_NUMBERS % 3, _NUMBERS, -1),
    letters=np.stack([_NUMBERS, _NUMBERS % 5], axis=1).astype(np.uint8),
    sizes=1 + _NUMBERS % 2,
    is_boundary=_NUMBERS % 3 == 0,
    pieces=np.stack(
        [np.where(_NUMBERS % 3, _NUMBERS, _NUMBERS // 2), np.where(_NUMBERS % 3, -1, 1)], axis=1
    ),
    places=np.stack([_NUMBERS // 2, np.where(_NUMBERS % 4, -1, _NUMBERS // 3)], axis=1),
    owners=np.append(-1, 2 * np.arange(1, (WORDS + 1) // 2)),
    nearest=_NUMBERS,
)
"""Two words of three are known to both sides; all have a letter of their own, and some a second.

Of their shared space two beside each other have one place, and are named for the first.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Case:
    """What the wall is given besides objectives: one pytree, so that `measure` compiles once."""

    student_hidden: jax.Array
    student_head: Head
    labels: jax.Array
    mask: jax.Array
    teacher_hidden: jax.Array
    teacher_head: Head

    def arguments(self) -> tuple[Rows, Head, Head]:
        """What `weighted_loss` takes after the objectives and their coefficients."""
        student = Side(self.student_hidden, self.labels)
        teacher = Side(self.teacher_hidden, self.labels)
        return Rows(student, teacher, self.mask), self.student_head, self.teacher_head

    def without_teacher(self) -> tuple[Rows, Head]:
        """The same where there is none."""
        return Rows(Side(self.student_hidden, self.labels), None, self.mask), self.student_head

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)


def random_case(key: jax.Array, groups: int = GROUPS, rows: int = ROWS) -> Case:
    """Rows of which about half count, one of them twice; heads without padding."""
    keys = iter(jax.random.split(key, 6))

    def head(width: int) -> Head:
        matrix = jax.random.normal(next(keys), (WORDS, width))
        return Head(matrix, lexicon=TWINS, vocab_size=WORDS)

    mask = (jax.random.uniform(next(keys), (groups, rows)) < 0.5).astype(jnp.float32)
    return Case(
        student_hidden=jax.random.normal(next(keys), (groups, rows, WIDTH)),
        student_head=head(WIDTH),
        labels=jax.random.randint(next(keys), (groups, rows), 0, WORDS),
        mask=mask.at[0, 0].set(2.0),
        teacher_hidden=jax.random.normal(next(keys), (groups, rows, TEACHER_WIDTH)),
        teacher_head=head(TEACHER_WIDTH),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk_rows")
def measure(
    objectives: tuple[RowObjective, ...], case: Case, *, chunk_rows: int = 4
) -> tuple[jax.Array, Case]:
    """The loss with coefficients 1, and its gradient to everything that a gradient could reach."""

    def loss(case: Case) -> jax.Array:
        ones = jnp.ones(len(objectives))
        return weighted_loss(objectives, ones, *case.arguments(), chunk_rows=chunk_rows)[0]

    return jax.value_and_grad(loss, allow_int=True)(case)


def dense_sums(objectives: tuple[RowObjective, ...], case: Case) -> jax.Array:
    """The sum of each objective with all logits at once, as nobody should do it."""
    sides = []
    for hidden, head in [
        (case.student_hidden, case.student_head),
        (case.teacher_hidden, case.teacher_head),
    ]:
        scores = hidden.reshape(-1, hidden.shape[-1]) @ head.matrix.T
        if head.bias is not None:
            scores = scores + jnp.broadcast_to(head.bias, scores.shape)
        scores = scores * head.scale
        if head.soft_cap is not None:
            scores = head.soft_cap * jnp.tanh(scores / head.soft_cap)
        sides.append(
            RowLogits(
                scores[:, : head.vocab_size],
                case.labels.ravel(),
                lexicon=head.lexicon,
                embeddings=head.matrix,
            )
        )
    values = [objective.row_values(*sides) for objective in objectives]
    return jnp.stack([jnp.sum(case.mask.ravel() * column) for column in values])
