"""Byte offsets of words and tokens in the scored text of a row, for any tokenizer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import LossOn, TokenizedRow
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Row
from jaxdistill.data.tokenization import tokenize_untruncated

# A word includes the white space before it, the last word also that after it: no byte is left out.
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")


@dataclass(frozen=True)
class WordOffsets:
    """Words of the scored text of a row, and the tokens that cover the same bytes.

    Special tokens are not text and belong to no word.

    Attributes:
        texts: The words without white space around them.
        word_ends: Byte of the scored text where each word ends.
        positions: Position in the row that predicts each token of the text; -1 for a row's first
            token, which nothing predicts.
        token_ends: Byte of the scored text where each of these tokens ends.
    """

    texts: tuple[str, ...]
    word_ends: Int[np.ndarray, " W"]
    positions: Int[np.ndarray, " N"]
    token_ends: Int[np.ndarray, " N"]

    @property
    def first_predicted_byte(self) -> int:
        """Byte where the predicted text starts; the text before it is not scored."""
        return int(self.token_ends[0]) if self.positions[:1] == -1 else 0


def word_offsets(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, loss_on: LossOn
) -> dict[int, WordOffsets]:
    """Compute the words of each row by its `row_id`.

    The rows are text, not exact tokens, and are not truncated.

    Raises:
        UserError: with all rows that the chat template does not allow.
    """
    tokenized = tokenize_untruncated(rows, Renderer(tokenizer), loss_on=loss_on)
    return {
        row.row_id: _row_word_offsets(tokens) for row, tokens in zip(rows, tokenized, strict=True)
    }


def _row_word_offsets(tokenized: TokenizedRow) -> WordOffsets:
    text_offsets = tokenized.text_offsets
    assert text_offsets is not None, "exact tokens have no text"
    data, ends = text_offsets.text.encode(), text_offsets.ends
    starts = np.concatenate([[0], ends[:-1]])
    scored = np.flatnonzero(tokenized.loss_mask & ~text_offsets.is_special)
    words, sizes = [], []
    # A word ends where the next turn starts, also if no white space stands between them.
    for run in np.split(scored, np.flatnonzero(np.diff(scored) > 1) + 1):
        text = data[starts[run[0]] : ends[run[-1]]].decode() if len(run) else ""
        for word in _WORD.findall(text):
            words.append(word.strip())
            sizes.append(len(word.encode()))
    return WordOffsets(
        texts=tuple(words),
        word_ends=np.cumsum(np.array(sizes, dtype=np.int64)),
        positions=scored - 1,
        token_ends=np.cumsum(text_offsets.bytes_per_token[scored]),
    )
