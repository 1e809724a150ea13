"""The words of what is scored, and where tokens stand in them: what any two tokenizers share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import TokenizedRow
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Row
from jaxdistill.data.tokenization import tokenize_untruncated

# A word takes the spaces before it, and the last one those behind it, so that no byte is left out.
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")


@dataclass(frozen=True)
class WordOffsets:
    """The scored text of a row in words, and its tokens on the same line of bytes.

    Special tokens, such as the one that ends an answer, are no text and stand in no word.

    Attributes:
        texts: The words, without spaces.
        ends: The byte of the scored text where each word ends.
        positions: The place in the row that predicts each token of the text (`Places.positions`);
            -1 for a row's first token, which nothing predicts.
        token_ends: The byte of the scored text that each of these tokens reaches.
    """

    texts: tuple[str, ...]
    word_ends: Int[np.ndarray, " W"]
    positions: Int[np.ndarray, " N"]
    token_ends: Int[np.ndarray, " N"]

    @property
    def first_predicted_byte(self) -> int:
        """Where what is predicted begins: the text before it is not scored."""
        return int(self.token_ends[0]) if self.positions[:1] == -1 else 0


def word_offsets(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    loss_on: Literal["completion", "all"],
) -> dict[int, WordOffsets]:
    """The words of each row by its `row_id`, for rows that were not truncated.

    Args:
        rows: Rows of text, not of exact tokens.
        tokenizer: The model's.
        loss_on: Whether the answers are scored, or everything.

    Raises:
        UserError: for rows that the chat template does not allow.
    """
    encoded = tokenize_untruncated(rows, Renderer(tokenizer), loss_on=loss_on)
    return {row.row_id: _row_word_offsets(one) for row, one in zip(rows, encoded, strict=True)}


def _row_word_offsets(encoded: TokenizedRow) -> WordOffsets:
    covered = encoded.text_offsets
    assert covered is not None, "exact tokens have no text"
    data, begins = covered.text.encode(), np.concatenate([[0], covered.ends[:-1]])
    kept = np.flatnonzero(encoded.loss_mask & ~covered.is_special)
    texts, sizes = [], []
    # A word ends where another turn begins, whether or not a space stands between them.
    for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
        text = data[begins[run[0]] : covered.ends[run[-1]]].decode() if len(run) else ""
        for found in _WORD.findall(text):
            texts.append(found.strip())
            sizes.append(len(found.encode()))
    return WordOffsets(
        texts=tuple(texts),
        word_ends=np.cumsum(np.array(sizes, dtype=np.int64)),
        positions=kept - 1,
        token_ends=np.cumsum(covered.bytes_per_token[kept]),
    )
