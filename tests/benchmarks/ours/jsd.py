"""JSD and cross-entropy through both LM heads, with gradients. Argument: VOCAB_SIZE."""

import sys

import jax
import jax.numpy as jnp
import shapes
from timing import time_repeats

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.objectives.positions import AlignedPositions, ModelPositions
from jaxdistill.types import LMHead

vocab_size = int(sys.argv[1])
keys = jax.random.split(jax.random.key(0), 4)
num_positions = shapes.JSD_POSITIONS
student = jax.random.normal(keys[0], (1, num_positions, shapes.STUDENT_EMBED_DIM))
teacher = jax.random.normal(keys[1], (1, num_positions, shapes.TEACHER_EMBED_DIM))
matrix = 0.05 * jax.random.normal(keys[2], (vocab_size, shapes.STUDENT_EMBED_DIM))
teacher_lm_head = LMHead(0.05 * jax.random.normal(keys[3], (vocab_size, shapes.TEACHER_EMBED_DIM)))
labels, mask = jnp.zeros((1, num_positions), jnp.int32), jnp.ones((1, num_positions))
objectives = (OBJECTIVES["jensen_shannon"](beta=shapes.BETA), OBJECTIVES["cross_entropy"]())


@jax.jit
def loss_and_gradients(hidden, matrix, teacher, teacher_lm_head):
    """Return the mean loss and its gradients: d(hidden) and d(matrix) of the student."""

    def loss(hidden, matrix):
        positions = AlignedPositions(
            ModelPositions(hidden, labels), ModelPositions(teacher, labels), mask
        )
        coefficients = jnp.full(2, 0.5 / num_positions)
        return weighted_loss(objectives, coefficients, positions, LMHead(matrix), teacher_lm_head)[
            0
        ]

    return jax.value_and_grad(loss, argnums=(0, 1))(hidden, matrix)


time_repeats(
    lambda: jax.block_until_ready(loss_and_gradients(student, matrix, teacher, teacher_lm_head)),
    repeats=3,
    units=num_positions,
)
