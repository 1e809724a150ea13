"""Rows beside themselves: what a teacher that reads otherwise than the student makes of them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill import align
from jaxdistill.data.examples import TeacherExample, TextOffsets, TokenizedRow, truncation_slice
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import TOKENS_NOT_PORTABLE
from jaxdistill.data.token_offsets import token_offsets
from jaxdistill.errors import UserError

_MAX_COMPLETION_TOKENS = 2**32
"""More words than any answer has."""


@dataclass(frozen=True)
class TeacherView:
    """A teacher that reads the rows of a run otherwise than the student.

    Its tokenizer is another, or there are rows with a `teacher_prompt`. Only answers are compared,
    so what is asked before them may differ.

    Attributes:
        templates: How its tokenizer wants rows.
        alignment: Which tokens are compared; None where nothing is, and it only writes answers.
        unpaired: What becomes of a row of which nothing can be: it is dropped, refused, or kept
            without what the teacher reads of it.
    """

    renderer: Renderer
    alignment: align.AlignmentRule | None
    unpaired: Literal["drop", "refuse", "keep"] = "drop"

    def align_row(
        self,
        student_row: TokenizedRow,
        teacher_row: TokenizedRow,
        student_renderer: Renderer,
        length: int,
        truncation: Literal["cut_end", "cut_start", "drop"],
    ) -> TeacherExample | Literal["too long", "unpaired"]:
        """A row in the teacher's tokens, or why it is dropped.

        Args:
            mine: The row as the student reads it.
            theirs: As the teacher reads it.
            templates: The student's.
            length: How many places it may take on either side.
            truncation: What becomes of a longer one.

        Raises:
            UserError: for a row that is refused, or holds exact tokens.
        """
        assert self.alignment is not None, "nothing is compared"
        is_cut = len(teacher_row.tokens) > length + 1
        if is_cut and truncation == "drop":
            return "too long"
        student_row, teacher_row = _strip_if_different(student_row, teacher_row)
        student = _TruncatedRow.truncate(
            student_row, truncation_slice(student_row, length, truncation), student_renderer
        )
        teacher = _TruncatedRow.truncate(
            teacher_row, truncation_slice(teacher_row, length, truncation), self.renderer
        )
        if is_cut and not teacher.is_compared.any():
            return "too long"
        groups = _match_spans(student, teacher, self.alignment)
        reason = student.unreadable_reason or teacher.unreadable_reason
        if reason is None and not (groups.student >= 0).any():
            reason = "no part of its answer is read by both tokenizers"
        if reason is None:
            return _build_teacher_example(student, teacher, groups, self.alignment, is_cut)
        if self.unpaired == "refuse":
            raise UserError(
                f"{reason}, so that it cannot be compared. Take it out, or set "
                "`data.unpaired=drop`."
            )
        return "unpaired"


def _strip_if_different(
    student_row: TokenizedRow, teacher_row: TokenizedRow
) -> tuple[TokenizedRow, TokenizedRow]:
    """Both sides with answers that say the same.

    Where one side is plain and the other a chat, the spaces around an answer are on one side only.
    """
    if student_row.text_offsets is None or teacher_row.text_offsets is None:
        return student_row, teacher_row
    if _completion_texts(student_row.text_offsets) == _completion_texts(teacher_row.text_offsets):
        return student_row, teacher_row
    return (
        replace(student_row, text_offsets=_strip_completions(student_row.text_offsets)),
        replace(teacher_row, text_offsets=_strip_completions(teacher_row.text_offsets)),
    )


def _completion_texts(text_offsets: TextOffsets) -> list[str]:
    return [text_offsets.text[slice(*turn.content_range)] for turn in text_offsets.turns]


def _strip_completions(text_offsets: TextOffsets) -> TextOffsets:
    """Its answers without the spaces around them."""
    turns = []
    for turn, answer in zip(text_offsets.turns, _completion_texts(text_offsets), strict=True):
        start = turn.content_range[1] - len(answer.lstrip())
        turns.append(turn._replace(content_range=(start, start + len(answer.strip()))))
    return replace(text_offsets, turns=tuple(turns))


@dataclass(frozen=True)
class _TruncatedRow:
    """What is left of a row on one side.

    Attributes:
        tokens: Its tokens.
        loss_mask: Which are learned.
        begins: The byte where each begins, of all that the answers say.
        ends: The byte where it ends; -1 for what is no part of an answer.
        counts: Which are predicted parts of answers.
        ranks: The number of each in its answer, the ends of answers not counted, and those of
            later answers larger; -1 for what does not count.
        num_bytes: How long the learned text is in UTF-8.
        unknown: Why the tokenizer cannot read it.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    is_compared: Bool[np.ndarray, " T"]
    completion_index: Int[np.ndarray, " T"]
    num_bytes: int
    unreadable_reason: str | None

    @classmethod
    def truncate(cls, encoded: TokenizedRow, keep: slice, renderer: Renderer) -> "_TruncatedRow":
        if encoded.text_offsets is None:
            raise UserError(TOKENS_NOT_PORTABLE)
        tokens, mask = encoded.tokens[keep], encoded.loss_mask[keep].copy()
        mask[:1] = False  # nothing predicts the first
        words = [renderer.token_bytes[token] for token in encoded.tokens]
        found = token_offsets(words, encoded.text_offsets)
        is_said = found.ends >= 0
        counts = mask & is_said[keep]
        unknown = _unreadable_reason(tokens[counts], found.has_lost_text[keep][counts], renderer)
        ranks = _completion_indices(
            is_said & ~encoded.text_offsets.is_special, encoded.text_offsets.turn_ids
        )[keep]
        num_bytes = int(encoded.text_offsets.bytes_per_token[keep][mask].sum())
        return cls(
            tokens=tokens,
            loss_mask=mask,
            starts=found.starts[keep],
            ends=found.ends[keep],
            is_compared=counts,
            completion_index=np.where(counts, ranks, -1),
            num_bytes=num_bytes,
            unreadable_reason=unknown,
        )


def _completion_indices(
    is_text_token: Bool[np.ndarray, " T"], turn_ids: Int[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The number of each word in its answer, and `_MOST` more in each answer after it."""
    turns = turn_ids[is_text_token]
    ranks = np.full(len(is_text_token), -1)
    ranks[is_text_token] = (
        turns * _MAX_COMPLETION_TOKENS + np.arange(len(turns)) - np.searchsorted(turns, turns)
    )
    return ranks


def _match_spans(
    student: "_TruncatedRow", teacher: "_TruncatedRow", alignment: align.AlignmentRule
) -> align.SpanIds:
    if alignment.method == "positions":
        return align.align_positions(student.completion_index, teacher.completion_index)
    found = align.align_spans(
        *(
            align.ByteRanges(s.starts[s.is_compared], s.ends[s.is_compared])
            for s in (student, teacher)
        )
    )
    groups = align.SpanIds(
        *(_scatter(n, side.is_compared) for n, side in zip(found, (student, teacher), strict=True))
    )
    return groups.select(alignment.compare_at)


def _unreadable_reason(
    tokens: Int[np.ndarray, " T"], has_lost_text: Bool[np.ndarray, " T"], renderer: Renderer
) -> str | None:
    unknown = renderer.tokenizer.unk_token_id
    is_unknown = unknown is not None and unknown != renderer.eos_id and unknown in tokens
    if not is_unknown and not has_lost_text.any():
        return None
    return f"tokenizer `{renderer.name}` has no token for a part of its answer"


def _build_teacher_example(
    student: _TruncatedRow,
    teacher: _TruncatedRow,
    spans: align.SpanIds,
    alignment: align.AlignmentRule,
    is_truncated: bool,
) -> TeacherExample:
    ends = np.zeros(spans.student.max() + 1, dtype=np.int64)
    is_grouped = spans.student >= 0
    ends[spans.student[is_grouped]] = np.flatnonzero(is_grouped)  # the last of a group stays
    weight = np.zeros(len(student.tokens), dtype=np.float32)
    weight[ends] = 1 if alignment.average_over == "groups" else 1 / len(ends)
    student_span_ids, teacher_span_ids = (np.where(n >= 0, ends[n], -1) for n in spans)
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
    """The numbers of the tokens that count, and -1 for the others."""
    found = np.full(len(mask), -1)
    found[mask] = values
    return found
