"""Tokens of rendered rows with their offsets, and the loss mask that follows from the turns."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill.data.examples import TextOffsets, TokenizedRow, char_to_byte_ends
from jaxdistill.data.renderer import RenderedText, Renderer

TokensWithOffsets = tuple[list[int], list[tuple[int, int]]]
"""Token ids of a text, and the characters (start, end) that each covers."""


def tokenize_with_offsets(
    rendered: Sequence[RenderedText], renderer: Renderer
) -> list[TokensWithOffsets]:
    """Tokenise rendered texts. Special tokens are added unless a chat template or the row did."""
    encodings: list[TokensWithOffsets] = [([], [])] * len(rendered)
    bos = renderer.tokenizer.bos_token
    is_complete = [row.is_chat or bool(bos and row.text.startswith(str(bos))) for row in rendered]
    for flag in set(is_complete):
        indices = [index for index, complete in enumerate(is_complete) if complete is flag]
        batch = renderer.tokenizer(
            [rendered[index].text for index in indices],
            add_special_tokens=not flag,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,  # no warnings about long texts: truncation is counted here
        )
        columns = zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        for index, encoding in zip(indices, columns, strict=True):
            encodings[index] = encoding
    return encodings


def add_loss_mask(
    rendered: RenderedText,
    encoding: TokensWithOffsets,
    eos_id: int | None,
    special_ids: Sequence[int],
) -> TokenizedRow:
    """Return the row with a mask of the tokens in its turns, and EOS after a finished plain one."""
    token_ids, offsets = encoding
    size, is_finished = len(rendered.text), all(turn.is_finished for turn in rendered.turns)
    if not rendered.is_chat and is_finished and eos_id is not None and token_ids[-1:] != [eos_id]:
        token_ids, offsets = [*token_ids, eos_id], [*offsets, (size, size)]
    tokens = np.array(token_ids, dtype=np.int32)
    starts, given_ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    ends = _extend_ends(rendered.text, starts, given_ends)
    is_special, is_eos = np.isin(tokens, special_ids), tokens == eos_id
    # Some tokenizers give a token of white space no characters: it starts where the last one ends.
    is_blank = (starts == ends) & ~is_special
    starts = np.where(is_blank, np.concatenate([[0], ends[:-1]]), starts)
    turn_ids = np.full(len(tokens), -1)
    for number, turn in enumerate(rendered.turns):
        in_turn = (ends > turn.loss_range[0]) & (starts < turn.loss_range[1]) & (ends > starts)
        if turn.is_finished and not rendered.is_chat:
            in_turn[-1:] |= is_eos[-1:]
        turn_ids[in_turn] = number
    # After a completion that was cut off, the template's text is not what the model would write.
    keep = slice(None) if is_finished else slice(len(tokens) - int(np.argmax(turn_ids[::-1] >= 0)))
    text_offsets = TextOffsets(
        text=rendered.text,
        starts=char_to_byte_ends(rendered.text, starts)[keep],
        ends=char_to_byte_ends(rendered.text, ends)[keep],
        is_special=is_special[keep],
        in_template=_in_template(rendered, starts, ends, turn_ids)[keep],
        turns=rendered.turns,
        turn_ids=turn_ids[keep],
        is_extended=(ends != given_ends)[keep],
    )
    return TokenizedRow(tokens[keep], turn_ids[keep] >= 0, text_offsets)


def _in_template(
    rendered: RenderedText,
    starts: Int[np.ndarray, " T"],
    ends: Int[np.ndarray, " T"],
    turn_ids: Int[np.ndarray, " T"],
) -> Bool[np.ndarray, " T"]:
    """Return True for tokens of a chat that are in no turn and in no content of a message."""
    is_outside = (turn_ids < 0) & rendered.is_chat
    for start, end in rendered.contents:
        is_outside &= (ends <= start) | (starts >= end)
    return is_outside


def _extend_ends(
    text: str, starts: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """Move the ends of tokens over characters that no token covers.

    A tokenizer that composes an accent with its letter leaves the accent out of its offsets. White
    space that is left out belongs to the next token, and is not added here.
    """
    size = len(text) + 1
    steps = np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size)
    next_covered = np.arange(size)
    for index in np.flatnonzero(np.cumsum(steps)[:-1] == 0)[::-1]:
        if not text[index].isspace():
            next_covered[index] = next_covered[index + 1]
    return np.where(ends > starts, next_covered[ends], ends)
