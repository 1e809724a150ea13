"""Token ids of examples, compared with the rows that the models have for them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import Example
from jaxdistill.errors import UserError


class VocabRows(NamedTuple):
    """Rows of embeddings and LM heads; an id from there on has no row.

    Attributes:
        student: Fewest rows of the models that read the student's tokens.
        teacher: Rows of a teacher that reads tokens of its own.
    """

    student: int
    teacher: int


def check_token_ids(
    examples: Sequence[Example],
    vocab_rows: VocabRows,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Check that the models have a row for every token of the examples.

    Tokens that were added to a tokenizer without resizing its model have none. JAX reads the last
    row in their place, without an error.

    Raises:
        UserError: Names the first such token of every row.
    """
    lines = [
        f"{example.source}: {problem}"
        for example in examples
        for problem in _problems(example, vocab_rows, tokenizer, teacher_tokenizer or tokenizer)
    ]
    if lines:
        raise UserError(*lines)


def _problems(
    example: Example,
    vocab_rows: VocabRows,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> Iterator[str]:
    views = [("student", example.tokens, vocab_rows.student, tokenizer)]
    if (teacher := example.teacher_example) is not None:
        views.append(("teacher", teacher.tokens, vocab_rows.teacher, teacher_tokenizer))
    for side, tokens, num_rows, reader in views:
        beyond = np.flatnonzero(tokens >= num_rows)
        if not beyond.size:
            continue
        token = int(tokens[beyond[0]])
        yield (
            f"token {token} (`{reader.convert_ids_to_tokens(token)}`) is behind the {num_rows:,} "
            f"rows of the {side}'s embedding or LM head. Resize the model for its tokenizer "
            "(`model.resize_token_embeddings(len(tokenizer))` with transformers), or leave the "
            "row out."
        )
