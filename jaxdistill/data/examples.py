"""What a row becomes, and the count of what was lost on the way."""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.renderer import AssistantTurn
from jaxdistill.data.rows import Row


@dataclass(frozen=True)
class TextOffsets:
    """The text that tokens stand for.

    Attributes:
        text: All of it.
        begins: The byte of its UTF-8 where the first character of each token begins.
        ends: The byte that each token reaches, never less than the one before it.
        is_special: Which tokens are marks, whose own text counts for nothing.
        turns: Its answers.
        turn_ids: The number of the answer that each token belongs to; -1 for none.
        is_extended: Which tokens were given characters behind them that are in none.
    """

    text: str
    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    is_special: Bool[np.ndarray, " T"]
    turns: tuple[AssistantTurn, ...]
    turn_ids: Int[np.ndarray, " T"]
    is_extended: Bool[np.ndarray, " T"]

    @property
    def bytes_per_token(self) -> Int[np.ndarray, " T"]:
        """How many bytes of text each token adds to those before it."""
        return np.where(self.is_special, 0, np.diff(self.ends, prepend=0))


def char_to_byte_ends(text: str, char_ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """The byte of UTF-8 that each token reaches, from the characters where they end.

    Tokens that share a character (pieces of an emoji) have the same end, so it is counted once;
    spaces that a tokenizer leaves out of its offsets count for the token after them.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    return bytes_before[np.maximum.accumulate(char_ends)] if len(char_ends) else char_ends


@dataclass(frozen=True)
class TokenizedRow:
    """A row before truncation.

    Attributes:
        tokens: All of it.
        loss_mask: Which tokens are learned.
        covered: The text behind them; None where only the tokens are known.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    text_offsets: TextOffsets | None


@dataclass(frozen=True)
class TeacherExample:
    """A row as a teacher sees it that has a tokenizer of its own, and what meets there.

    Tokens that stand for the same text form a group, which has the number of the student's token
    that ends it.

    Attributes:
        tokens: All of it.
        loss_mask: Which of them are learned.
        teacher_span_ids: The group of each of them; -1 for none.
        student_span_ids: The group of each of the student's tokens.
        weight: How much the group counts which a token of the student's ends; 0 where it ends none.
        num_bytes: How long the text is in UTF-8 that is learned on the teacher's side.
        is_cut: Whether that side lost a part.
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
    """A row as the model sees it.

    Attributes:
        tokens: All of it; the last one is only predicted, never read.
        loss_mask: Which of them are learned, as what the tokens before them predict. Never the
            first, which nothing predicts.
        row_id: The row's number.
        place: Where the row stands, for messages.
        num_bytes: How long the learned text is in UTF-8, special tokens not counted: what bits
            per byte are counted by.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    row_id: int
    source: str
    num_bytes: int
    teacher_example: TeacherExample | None = None

    @property
    def num_positions(self) -> int:
        """How many places of a sequence it takes, on either side."""
        theirs = 0 if self.teacher_example is None else len(self.teacher_example.tokens)
        return max(len(self.tokens), theirs) - 1


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows; nothing is cut or dropped without being told.

    Attributes:
        rows: How many were read.
        tokens: How many tokens the kept ones have.
        scored_tokens: How many of those are learned.
        truncated_rows: Rows that were too long and lost a part.
        cut_tokens: The tokens they lost.
        dropped_rows: Rows left out: too long, or with nothing to learn.
        overlapping_rows: Rows left out of training, because held-out rows ask the same.
        unpaired_rows: Rows left out because nothing of them can be compared with a teacher that
            has another tokenizer.
        groups: The groups of tokens in which the kept ones are compared with such a teacher.
    """

    rows: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    truncated_rows: int = 0
    cut_tokens: int = 0
    dropped_rows: int = 0
    overlapping_rows: int = 0
    unpaired_rows: int = 0
    spans: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        shared = f", {self.overlapping_rows:,} rows of held-out prompts left out"
        unpaired = f", {self.unpaired_rows:,} rows with nothing to compare left out"
        groups = f", compared in {self.spans:,} groups" if self.spans else ""
        return (
            f"{self.rows:,} rows, {self.tokens:,} tokens "
            f"({self.scored_tokens:,} to learn{groups}); "
            f"{self.truncated_rows:,} rows truncated ({self.cut_tokens:,} tokens cut), "
            f"{self.dropped_rows:,} rows dropped{shared if self.overlapping_rows else ''}"
            f"{unpaired if self.unpaired_rows else ''}"
        )


def truncation_slice(
    encoded: TokenizedRow, length: int, truncation: Literal["cut_end", "cut_start", "drop"]
) -> slice:
    """Which tokens fit into `length` places; the last of them is only predicted."""
    size = len(encoded.tokens)
    cut = max(0, size - (length + 1))
    return slice(cut, size) if truncation == "cut_start" else slice(0, size - cut)


def truncate(
    row: Row,
    encoded: TokenizedRow,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    truncation: Literal["cut_end", "cut_start", "drop"],
) -> tuple[Example | None, RowCounts]:
    """The row in no more than `length` places, and what that cost."""
    keep = truncation_slice(encoded, length, truncation)
    cut = len(encoded.tokens) - (keep.stop - keep.start)
    tokens, mask = encoded.tokens[keep], encoded.loss_mask[keep].copy()
    mask[:1] = False
    if not mask.any() or (cut and truncation == "drop"):
        return None, RowCounts(rows=1, dropped_rows=1)
    if encoded.text_offsets is None:
        text = tokenizer.decode(tokens[mask], skip_special_tokens=True)
        num_bytes = len(str(text).encode())
    else:
        num_bytes = int(encoded.text_offsets.bytes_per_token[keep][mask].sum())
    counts = RowCounts(
        rows=1,
        tokens=len(tokens),
        scored_tokens=int(mask.sum()),
        truncated_rows=int(cut > 0),
        cut_tokens=cut,
    )
    return Example(tokens, mask, row.row_id, row.source, num_bytes), counts
