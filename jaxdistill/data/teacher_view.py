"""Teacher view: a row in the tokens of a teacher with another tokenizer or prompt, aligned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import eq, ne
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill import align
from jaxdistill.data.examples import (
    Kept,
    TeacherExample,
    TextOffsets,
    TokenizedRow,
    Truncation,
    keep_tokens,
)
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import TOKENS_NOT_PORTABLE
from jaxdistill.data.token_offsets import token_offsets
from jaxdistill.errors import UserError

_MAX_COMPLETION_TOKENS = 2**32
"""More tokens than any completion has."""

DropReason = Literal["too long", "unpaired"]
"""Reason to leave out a row: the teacher's side is too long, or has nothing to compare."""


@dataclass(frozen=True)
class TeacherView:
    """A teacher that reads other tokens than the student.

    It has another tokenizer or chat template, or rows have a `teacher_prompt`. Only completions are
    compared, so prompts may differ.

    Attributes:
        renderer: The teacher's tokenizer and chat template.
        alignment: Rule for the tokens to compare; None if the teacher only writes completions.
        unpaired: Treatment of a row with nothing to compare: drop it, refuse it, or keep it
            without a teacher example.
        has_own_tokens: False if its tokenizer is the student's, and only prompts differ.
    """

    renderer: Renderer
    alignment: align.AlignmentRule | None
    unpaired: Literal["drop", "refuse", "keep"] = "drop"
    has_own_tokens: bool = True

    def align_row(
        self,
        student_row: TokenizedRow,
        teacher_row: TokenizedRow,
        student_renderer: Renderer,
        length: int,
        truncation: Truncation,
    ) -> TeacherExample | DropReason:
        """Truncate a row to `length` positions on both sides, and align its tokens.

        Raises:
            UserError: for a row of exact tokens, or with nothing to compare if that is refused.
        """
        assert self.alignment is not None, "nothing is compared"
        is_truncated = len(teacher_row.tokens) > length + 1
        if is_truncated and truncation == "drop":
            return "too long"
        student_text, teacher_text = student_row.text_offsets, teacher_row.text_offsets
        if student_text is None or teacher_text is None:
            raise UserError(TOKENS_NOT_PORTABLE)
        # Only one side has white space around completions if the other is a chat.
        if _completion_texts(student_text) != _completion_texts(teacher_text):
            student_text, teacher_text = map(_strip_completions, (student_text, teacher_text))
        texts = _completion_texts(student_text), _completion_texts(teacher_text)
        if len(texts[0]) != len(texts[1]) or not any(map(eq, *texts)):
            return self._reject("the chat templates write its completion differently")
        different = [number for number, pair in enumerate(zip(*texts, strict=True)) if ne(*pair)]
        if different:
            student_text, teacher_text = (
                _without_turns(text, different) for text in (student_text, teacher_text)
            )
        student, teacher = (
            _TruncatedRow.from_row(
                row,
                text,
                keep_tokens(row, length, truncation, renderer),
                renderer,
            )
            for row, text, renderer in (
                (student_row, student_text, student_renderer),
                (teacher_row, teacher_text, self.renderer),
            )
        )
        if is_truncated and not teacher.is_compared.any():
            return "too long"
        spans = _match_spans(student, teacher, self.alignment)
        reason = student.unreadable_reason or teacher.unreadable_reason
        if reason is None and not (spans.student >= 0).any():
            reason = "no part of its completion is read by both tokenizers"
        if reason is None:
            return _build_teacher_example(student, teacher, spans, self.alignment, is_truncated)
        return self._reject(reason)

    def _reject(self, reason: str) -> DropReason:
        if self.unpaired == "refuse":
            raise UserError(
                f"{reason}, so that it cannot be compared. Remove the row, or set "
                "`data.unpaired=drop`."
            )
        return "unpaired"


def _completion_texts(text_offsets: TextOffsets) -> list[str]:
    return [text_offsets.text[slice(*turn.content_range)] for turn in text_offsets.turns]


def _strip_completions(text_offsets: TextOffsets) -> TextOffsets:
    """Move the ends of every completion over the white space around it."""
    turns = []
    for turn, completion in zip(text_offsets.turns, _completion_texts(text_offsets), strict=True):
        start = turn.content_range[1] - len(completion.lstrip())
        turns.append(turn._replace(content_range=(start, start + len(completion.strip()))))
    return replace(text_offsets, turns=tuple(turns))


def _without_turns(text_offsets: TextOffsets, numbers: Sequence[int]) -> TextOffsets:
    """Return the offsets without some turns, which the two sides write differently."""
    turns = list(text_offsets.turns)
    for number in numbers:
        start = turns[number].content_range[0]
        turns[number] = turns[number]._replace(content_range=(start, start))
    turn_ids = np.where(np.isin(text_offsets.turn_ids, numbers), -1, text_offsets.turn_ids)
    return replace(text_offsets, turns=tuple(turns), turn_ids=turn_ids)


@dataclass(frozen=True)
class _TruncatedRow:
    """One side of a row after truncation.

    Attributes:
        is_compared: True for tokens of completions that are learned.
        byte_ranges: Bytes of the compared tokens in the completions.
        completion_positions: Index of each token in its completion, `_MAX_COMPLETION_TOKENS` higher
            in each later completion; -1 for special tokens and what is not compared.
        num_bytes: UTF-8 bytes of the learned text.
        unreadable_reason: Reason why the tokenizer cannot encode the completion; None if it can.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    is_compared: Bool[np.ndarray, " T"]
    byte_ranges: align.ByteRanges
    completion_positions: Int[np.ndarray, " T"]
    num_bytes: int
    unreadable_reason: str | None

    @classmethod
    def from_row(
        cls, row: TokenizedRow, text_offsets: TextOffsets, kept: Kept, renderer: Renderer
    ) -> "_TruncatedRow":
        keep, loss_mask = kept
        tokens = row.tokens[keep]
        token_bytes = [renderer.token_bytes[token] for token in row.tokens]
        offsets = token_offsets(token_bytes, text_offsets)
        starts, ends = offsets.byte_ranges
        in_completion = ends >= 0
        is_compared = loss_mask & in_completion[keep]
        is_text = in_completion & ~text_offsets.is_special
        turns = text_offsets.turn_ids[is_text]
        indices = np.arange(len(turns)) - np.searchsorted(turns, turns)
        positions = _scatter(turns * _MAX_COMPLETION_TOKENS + indices, is_text)
        return cls(
            tokens=tokens,
            loss_mask=loss_mask,
            is_compared=is_compared,
            byte_ranges=align.ByteRanges(starts[keep][is_compared], ends[keep][is_compared]),
            completion_positions=np.where(is_compared, positions[keep], -1),
            num_bytes=int(text_offsets.bytes_per_token[keep][loss_mask].sum()),
            unreadable_reason=_unreadable_reason(
                tokens[is_compared], offsets.has_lost_text[keep][is_compared], renderer
            ),
        )


def _match_spans(
    student: _TruncatedRow, teacher: _TruncatedRow, alignment: align.AlignmentRule
) -> align.SpanIds:
    if alignment.method == "positions":
        return align.align_positions(student.completion_positions, teacher.completion_positions)
    spans = align.align_spans(student.byte_ranges, teacher.byte_ranges)
    return align.SpanIds(
        _scatter(spans.student, student.is_compared), _scatter(spans.teacher, teacher.is_compared)
    ).select(alignment.compare_at)


def _unreadable_reason(
    tokens: Int[np.ndarray, " T"], has_lost_text: Bool[np.ndarray, " T"], renderer: Renderer
) -> str | None:
    unk_id = renderer.tokenizer.unk_token_id
    has_unknown = unk_id is not None and unk_id != renderer.eos_id and unk_id in tokens
    if not has_unknown and not has_lost_text.any():
        return None
    return f"tokenizer `{renderer.name}` has no token for a part of its completion"


def _build_teacher_example(
    student: _TruncatedRow,
    teacher: _TruncatedRow,
    spans: align.SpanIds,
    alignment: align.AlignmentRule,
    is_truncated: bool,
) -> TeacherExample:
    ends = np.zeros(spans.student.max() + 1, dtype=np.int64)
    in_span = spans.student >= 0
    ends[spans.student[in_span]] = np.flatnonzero(in_span)  # the last token of a span stays
    weight = np.zeros(len(student.tokens), dtype=np.float32)
    weight[ends] = 1 if alignment.average_over == "groups" else 1 / len(ends)
    student_span_ids, teacher_span_ids = (np.where(ids >= 0, ends[ids], -1) for ids in spans)
    return TeacherExample(
        tokens=teacher.tokens,
        loss_mask=teacher.loss_mask,
        teacher_span_ids=teacher_span_ids,
        student_span_ids=student_span_ids,
        weight=weight,
        num_bytes=teacher.num_bytes,
        is_truncated=is_truncated,
    )


def _scatter(values: Int[np.ndarray, " N"], mask: Bool[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Return an array with the values where `mask` is True, and -1 elsewhere."""
    result = np.full(len(mask), -1)
    result[mask] = values
    return result
