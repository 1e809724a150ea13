"""Tokenised rows: text offsets, training examples, their truncation, and counts of lost rows."""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdistill.data.renderer import AssistantTurn, Renderer
from jaxdistill.data.rows import Row

LossOn = Literal["completion", "all"]
"""Tokens to learn: those of the completions, or all."""

Truncation = Literal["cut_end", "cut_start", "drop"]
"""Treatment of rows that are too long."""


@dataclass(frozen=True)
class TextOffsets:
    """Text of a row, and the bytes of it that each token covers.

    Attributes:
        text: The whole text.
        starts: UTF-8 byte where the first character of each token starts.
        ends: UTF-8 byte where each token ends; never decreases.
        is_special: True for special tokens, whose text does not count.
        in_template: True for tokens that the chat template adds around the messages.
        turns: Completions in the text.
        turn_ids: Index of the turn that each token belongs to; -1 for none.
        is_extended: True for tokens whose end was moved over characters that no token covers.
    """

    text: str
    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    is_special: Bool[np.ndarray, " T"]
    in_template: Bool[np.ndarray, " T"]
    turns: tuple[AssistantTurn, ...]
    turn_ids: Int[np.ndarray, " T"]
    is_extended: Bool[np.ndarray, " T"]

    @property
    def bytes_per_token(self) -> Int[np.ndarray, " T"]:
        """Bytes of text that each token adds to those before it; 0 for special tokens."""
        return np.where(self.is_special, 0, np.diff(self.ends, prepend=0))


def char_to_byte_ends(text: str, char_ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Convert the character where each token ends to a UTF-8 byte.

    Tokens that share a character (an emoji of several tokens) have the same end, so that its bytes
    count once. White space that a tokenizer leaves out of its offsets counts for the next token.
    """
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    return bytes_before[np.maximum.accumulate(char_ends)] if len(char_ends) else char_ends


@dataclass(frozen=True)
class TokenizedRow:
    """Tokens of a row before truncation, and the text behind them (None for exact tokens)."""

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    text_offsets: TextOffsets | None


@dataclass(frozen=True)
class TeacherExample:
    """A row in the tokens of a teacher with another tokenizer or prompt, and its alignment.

    The id of a span is the index of the student's last token in it; -1 for tokens in no span.

    Attributes:
        weight: Weight of the span that ends at a token of the student; 0 where no span ends.
        num_bytes: UTF-8 bytes of the learned text on the teacher's side.
        is_truncated: The teacher's side lost tokens.
    """

    tokens: Int[np.ndarray, " S"]
    loss_mask: Bool[np.ndarray, " S"]
    teacher_span_ids: Int[np.ndarray, " S"]
    student_span_ids: Int[np.ndarray, " T"]
    weight: Float[np.ndarray, " T"]
    num_bytes: int = 0
    is_truncated: bool = False


@dataclass(frozen=True)
class Example:
    """A row in the tokens of the student, short enough for a sequence.

    Attributes:
        tokens: Token ids. The last one is only a label, never an input.
        loss_mask: True where a token is learned, as a label of the position before it. False for
            the first token, which nothing predicts.
        num_bytes: UTF-8 bytes of the learned text without special tokens, for bits per byte.
        teacher_example: The teacher's view, where it differs from the student's.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    row_id: int
    source: str
    num_bytes: int
    teacher_example: TeacherExample | None = None

    @property
    def num_positions(self) -> int:
        """Positions of a sequence that the example takes: the larger of student and teacher."""
        teacher_size = 0 if self.teacher_example is None else len(self.teacher_example.tokens)
        return max(len(self.tokens), teacher_size) - 1


@dataclass(frozen=True)
class RowCounts:
    """Counts of rows that were read, and of tokens and spans of those that were kept.

    Attributes:
        scored_tokens: Tokens that are learned.
        cut_tokens: Tokens that the truncated rows lost.
        dropped_rows: Rows left out because they are too long or have nothing to learn.
        overlapping_rows: Rows left out of training because a held-out row has the same prompt.
        bad_rows: Rows left out because they cannot be read, or a chat template refuses them.
        unpaired_rows: Rows left out because nothing of them can be compared with a teacher of
            another tokenizer.
    """

    rows: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    truncated_rows: int = 0
    cut_tokens: int = 0
    dropped_rows: int = 0
    overlapping_rows: int = 0
    bad_rows: int = 0
    unpaired_rows: int = 0
    spans: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        overlapping = f", {self.overlapping_rows:,} rows of held-out prompts left out"
        bad = f", {self.bad_rows:,} bad rows left out"
        unpaired = f", {self.unpaired_rows:,} rows with nothing to compare left out"
        spans = f", compared in {self.spans:,} spans" if self.spans else ""
        return (
            f"{self.rows:,} rows, {self.tokens:,} tokens "
            f"({self.scored_tokens:,} to learn{spans}); "
            f"{self.truncated_rows:,} rows truncated ({self.cut_tokens:,} tokens cut), "
            f"{self.dropped_rows:,} rows dropped{overlapping if self.overlapping_rows else ''}"
            f"{bad if self.bad_rows else ''}"
            f"{unpaired if self.unpaired_rows else ''}"
        )


class Kept(NamedTuple):
    """Tokens of a row that fit into a sequence: their indices, and which of them are learned."""

    indices: Int[np.ndarray, " K"]
    loss_mask: Bool[np.ndarray, " K"]


def keep_tokens(
    tokenized: TokenizedRow,
    length: int,
    truncation: Truncation,
    renderer: Renderer,
) -> Kept:
    """Choose the tokens that fit into `length` positions, labels included.

    A cut start leaves BOS where it is. The first token after the cut is not learned: what it
    follows is gone. What a chat template writes between two messages is kept whole or not at all,
    with a short message in it.
    """
    size = len(tokenized.tokens)
    num_cut = max(0, size - (length + 1))
    indices = np.arange(size - num_cut)
    if num_cut and truncation == "cut_start":
        has_bos = int(tokenized.tokens[0]) == renderer.tokenizer.bos_token_id
        first = _skip_template(tokenized, num_cut + has_bos, renderer.end_of_turn_id)
        indices = np.append(indices[:has_bos], np.arange(first, size))
    elif num_cut:  # without the start of a message that nothing is learned of
        indices = indices[: np.flatnonzero(tokenized.loss_mask[indices]).max(initial=-1) + 1]
    loss_mask = tokenized.loss_mask[indices]
    loss_mask[:1] = False  # nothing predicts the first token
    loss_mask[1:] &= np.diff(indices) == 1
    return Kept(indices, loss_mask)


def _skip_template(tokenized: TokenizedRow, first: int, end_of_turn_id: int | None) -> int:
    """Return `first`, or the start of the next message if it is inside of what is before that."""
    offsets = tokenized.text_offsets
    if offsets is None:
        return first
    while first < len(tokenized.tokens) and offsets.in_template[first - 1 : first + 1].all():
        if tokenized.tokens[first - 1] == end_of_turn_id:
            break
        first += 1
    return first


def truncate(
    row: Row,
    tokenized: TokenizedRow,
    renderer: Renderer,
    length: int,
    truncation: Truncation,
) -> tuple[Example | None, RowCounts]:
    """Truncate a row to `length` positions.

    Returns:
        The example, None if the row is dropped; and the counts of this row.
    """
    keep, loss_mask = keep_tokens(tokenized, length, truncation, renderer)
    num_cut = len(tokenized.tokens) - len(keep)
    tokens = tokenized.tokens[keep]
    if not loss_mask.any() or (num_cut and truncation == "drop"):
        return None, RowCounts(rows=1, dropped_rows=1)
    if tokenized.text_offsets is None:
        num_bytes = len(renderer.decode(tokens[loss_mask].tolist()).encode())
    else:
        num_bytes = int(tokenized.text_offsets.bytes_per_token[keep][loss_mask].sum())
    counts = RowCounts(
        rows=1,
        tokens=len(tokens),
        scored_tokens=int(loss_mask.sum()),
        truncated_rows=int(num_cut > 0),
        cut_tokens=num_cut,
    )
    return Example(tokens, loss_mask, row.row_id, row.source, num_bytes), counts
