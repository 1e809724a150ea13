"""What a model says of rows, brought out of the wall: a few numbers a row, with their gradient."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxdistill.objectives.chunk import CHUNK_ROWS, by_group, in_pieces
from jaxdistill.objectives.rows import pack_where, restore, walk, write
from jaxdistill.objectives.unembed import finish, project, project_gradients
from jaxdistill.types import Head, Lexicon

Question = Callable[[Float32[Array, "R V"], Any, Lexicon | None], Float32[Array, "R *N"]]
"""`(logits, what is asked about, what the words are) -> answers` of a few rows; finite, with finite
gradients, for logits that are all equal."""


def ask(
    question: Question,
    hidden: Float[Array, "G R D"],
    about: Any,
    is_asked: Bool[Array, "G R"],
    head: Head,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> Float32[Array, "G R *N"]:
    """What a model answers of each row; 0 where it is not asked.

    Gradients reach the hidden states and the head. They are formed in a second walk, when it is
    known how much each answer counts: no logits are kept for it.

    Args:
        question: A function of its own for each kind of question, or it is compiled again.
        hidden: Of all rows, in as many groups as the batch has shards.
        about: What it is asked about, a pytree of columns `[G, R, ...]`.
        is_asked: Which rows; the others are never projected.
        head: Reads `hidden`.
        chunk_rows: Rows of each group that are projected at a time.
    """
    return _ask(question, chunk_rows, hidden, head, (about, is_asked))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ask(
    question: Question,
    chunk_rows: int,
    hidden: Float[Array, "G R D"],
    head: Head,
    others: tuple[Any, Array],
) -> Float32[Array, "G R *N"]:
    about, is_asked = others
    packed = pack_where(is_asked, (hidden, about), chunk_rows)

    def answer(chunk: Any) -> Float32[Array, "R *N"]:
        hidden, about = chunk

        def of_piece(about: Any, scores: Array) -> Array:
            return question(finish(scores, head), about, head.lexicon)

        found = in_pieces(of_piece, about, project(hidden, head))
        return found.reshape(-1, *found.shape[2:])

    def visit(column: Array, chunk: Any, start: Array) -> Array:
        return write(column, by_group(answer, chunk), start)

    like = jax.eval_shape(partial(by_group, answer), packed.rows)
    found = restore(walk(packed, visit, jnp.zeros(like.shape, like.dtype)), packed)
    return jnp.where(is_asked.reshape(*is_asked.shape, *(1,) * (found.ndim - 2)), found, 0)


def _forward(
    question: Question, chunk_rows: int, hidden: Array, head: Head, others: tuple[Any, Array]
) -> tuple[Array, Any]:
    return _ask(question, chunk_rows, hidden, head, others), (hidden, head, others)


def _backward(
    question: Question, chunk_rows: int, kept: Any, cotangent: Float32[Array, "G R *N"]
) -> tuple[Any, ...]:
    hidden, head, (about, is_asked) = kept
    packed = pack_where(is_asked, (hidden, (about, cotangent)), chunk_rows)

    def slopes(asked: Any, scores: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
        about, cotangent = asked
        _, pull = jax.vjp(
            lambda scores: question(finish(scores, head), about, head.lexicon), scores
        )
        return pull(cotangent)[0]

    def differentiate(chunk: Any) -> Any:
        hidden, asked = chunk
        slope = in_pieces(slopes, asked, project(hidden, head))
        return project_gradients(slope.reshape(-1, slope.shape[-1]), hidden, head)

    def visit(carry: Any, chunk: Any, start: Array) -> Any:
        of_rows, added = by_group(differentiate, chunk)
        return write(carry[0], of_rows, start), jax.tree.map(jnp.add, carry[1], added)

    # A total for each group until the end, as in the wall.
    leaves = head.matrix, head.bias
    zeros = jax.tree.map(lambda a: jnp.zeros((len(hidden), *a.shape), jnp.float32), leaves)
    of_rows, totals = walk(packed, visit, (jnp.zeros_like(packed.rows[0]), zeros))
    matrix, bias = jax.tree.map(lambda t, a: t.sum(axis=0).astype(a.dtype), totals, leaves)
    return restore(of_rows, packed), replace(head, matrix=matrix, bias=bias, lexicon=None), None


_ask.defvjp(_forward, _backward)
