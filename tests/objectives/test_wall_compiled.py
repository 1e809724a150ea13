"""What the compiler makes of the wall: memory that does not grow with T·V, and no needless work."""

import jax
import jax.numpy as jnp

from jaxdistill.objectives import OBJECTIVES, weighted_loss
from jaxdistill.types import Head

MIX = (OBJECTIVES["forward_kl"](), OBJECTIVES["cross_entropy"]())
QWEN_WORDS, WIDTH = 151_936, 64


def compile_wall(rows: int, *, differentiate: tuple[int, ...] = (0, 1)):
    """The wall over `rows` rows of a real vocabulary, compiled from shapes alone."""
    hidden = jax.ShapeDtypeStruct((1, rows, WIDTH), jnp.float32)
    matrix = jax.ShapeDtypeStruct((QWEN_WORDS, WIDTH), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, rows), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, rows), jnp.float32)

    def loss(student_hidden, matrix, labels, mask, teacher_hidden, teacher_matrix):
        student = (student_hidden, Head(matrix), labels, mask)
        teacher = (teacher_hidden, Head(teacher_matrix))
        return weighted_loss(MIX, jnp.ones(2), *student, *teacher, chunk_rows=64)[0]

    function = jax.grad(loss, argnums=differentiate) if differentiate else loss
    return jax.jit(function).lower(hidden, matrix, labels, mask, hidden, matrix).compile()


def temporary_bytes(rows: int, **options) -> int:
    return compile_wall(rows, **options).memory_analysis().temp_size_in_bytes


def test_temporary_memory_does_not_grow_with_rows_times_vocabulary() -> None:
    growth = temporary_bytes(2048) - temporary_bytes(1024)
    row_of_hidden = 4 * WIDTH
    # Packed copies of both hidden states and the gradient, before and after it is put in order.
    assert growth <= 1024 * (4 * row_of_hidden + 64)
    assert growth < 1024 * QWEN_WORDS * 4 / 100


HEAD_GRADIENT = f"f32[{QWEN_WORDS},{WIDTH}]{{1,0}} dot"


def test_gradients_are_formed_only_where_they_are_asked_for() -> None:
    assert HEAD_GRADIENT in compile_wall(128).as_text()
    assert HEAD_GRADIENT not in compile_wall(128, differentiate=(0,)).as_text()
    assert HEAD_GRADIENT not in compile_wall(128, differentiate=()).as_text()
