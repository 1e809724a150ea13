"""JSD and cross-entropy over many rows through both heads, with gradients: argument WORDS."""

import sys

import jax
import jax.numpy as jnp
import shapes
from measure import repeat

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead

words = int(sys.argv[1])
keys = jax.random.split(jax.random.key(0), 4)
rows = shapes.JSD_ROWS
student = jax.random.normal(keys[0], (1, rows, shapes.STUDENT_WIDTH))
teacher = jax.random.normal(keys[1], (1, rows, shapes.TEACHER_WIDTH))
matrix = 0.05 * jax.random.normal(keys[2], (words, shapes.STUDENT_WIDTH))
teacher_lm_head = LMHead(0.05 * jax.random.normal(keys[3], (words, shapes.TEACHER_WIDTH)))
labels, mask = jnp.zeros((1, rows), jnp.int32), jnp.ones((1, rows))
objectives = (OBJECTIVES["jensen_shannon"](beta=shapes.BETA), OBJECTIVES["cross_entropy"]())


@jax.jit
def loss_and_gradients(hidden, matrix, teacher, teacher_lm_head):
    """The mean, and its gradients to the student's hidden states and head."""

    def loss(hidden, matrix):
        paired = AlignedPositions(
            ModelPositions(hidden, labels), ModelPositions(teacher, labels), mask
        )
        coefficients = jnp.full(2, 0.5 / rows)
        return weighted_loss(objectives, coefficients, paired, LMHead(matrix), teacher_lm_head)[0]

    return jax.value_and_grad(loss, argnums=(0, 1))(hidden, matrix)


repeat(
    lambda: jax.block_until_ready(loss_and_gradients(student, matrix, teacher, teacher_lm_head)),
    repeats=3,
    units=rows,
)
