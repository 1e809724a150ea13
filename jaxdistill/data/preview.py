"""Preview of rows: what the models will read and learn of them, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.data.config import DataConfig
from jaxdistill.data.examples import RowCounts
from jaxdistill.data.preparation import complete_rows, tokenize_as_configured
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rows import Chat, Row, Text, Tokens, apply_teacher_prompt
from jaxdistill.data.split import DataSplit
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.tokenization import tokenize_prompts


class Segment(NamedTuple):
    """Text of consecutive tokens that are all learned, or all not learned."""

    text: str
    is_learned: bool


@dataclass(frozen=True)
class TokenPreview:
    """Tokens of a row as one model reads them; the mask is 1 where a token is learned."""

    tokens: tuple[int, ...]
    loss_mask: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole text, with special tokens."""
        return "".join(segment.text for segment in self.segments)

    @property
    def learned_text(self) -> str:
        """The learned parts of the text, one after the other."""
        return "".join(segment.text for segment in self.segments if segment.is_learned)


@dataclass(frozen=True)
class RowPreview:
    """A row as the models will read it.

    Attributes:
        source: File and line.
        student: Tokens of the student; none if the row is dropped.
        teacher: Tokens of the teacher; None if it reads those of the student.
        is_heldout: True if the row is evaluated on and not trained on.
        cut_tokens: Tokens that are cut because the row is too long.
        note: Reason why the row is dropped, or why nothing of it is learned yet; else empty.
    """

    source: str
    student: TokenPreview
    teacher: TokenPreview | None
    is_heldout: bool
    cut_tokens: int
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return the preview as values for JSON; fields of the teacher are None if it has none."""
        student, teacher = self.student, self.teacher
        return {
            "source": self.source,
            "text": student.text,
            "tokens": student.tokens,
            "loss_mask": student.loss_mask,
            "learned_text": student.learned_text,
            "teacher_text": teacher and teacher.text,
            "teacher_tokens": teacher and teacher.tokens,
            "teacher_loss_mask": teacher and teacher.loss_mask,
            "teacher_learned_text": teacher and teacher.learned_text,
            "heldout": self.is_heldout,
            "cut_tokens": self.cut_tokens,
            "note": self.note,
        }


def preview_rows(
    config: DataConfig,
    split: DataSplit,
    renderer: Renderer,
    *,
    teacher_view: TeacherView | None,
    generation_cache: GenerationCache | None,
    count: int,
) -> list[RowPreview]:
    """Return previews of the first `count` rows in the order of their files.

    `generation_cache`, which need not generate, has the completions that a teacher wrote already. A
    row whose completion is still to be written shows its prompt.

    Raises:
        UserError: if a row cannot be read.
    """
    train, heldout = _first_rows(split, count)
    needed = DataSplit(train, heldout)
    completed = complete_rows(config, needed, renderer, generation_cache, teacher_view)
    kept_view = teacher_view and replace(teacher_view, unpaired="keep")
    sides = ((train, completed.train, teacher_view), (heldout, completed.heldout, kept_view))
    previews = [
        (row.row_id, _preview_row(row, written, renderer, view, config, is_heldout=side == 1))
        for side, (rows, written_rows, view) in enumerate(sides)
        for row, written in zip(rows, written_rows, strict=True)
    ]
    return [preview for _, preview in sorted(previews, key=lambda pair: pair[0])]


def _first_rows(split: DataSplit, count: int) -> tuple[list[Row], list[Row]]:
    """Return those of the first `count` rows that are trained on, and those that are held out."""
    row_ids = sorted(row.row_id for row in (*split.train, *split.heldout))[:count]
    last = row_ids[-1]
    train, heldout = (
        [row for row in rows if row.row_id <= last] for rows in (split.train, split.heldout)
    )
    return train, heldout


def _preview_row(
    row: Row,
    completed: Row,
    renderer: Renderer,
    view: TeacherView | None,
    config: DataConfig,
    *,
    is_heldout: bool,
) -> RowPreview:
    if _is_unwritten(completed):
        return _preview_prompt(row, renderer, view, is_heldout)
    examples, counts = tokenize_as_configured(config, [completed], renderer, view)
    if not examples:
        empty = TokenPreview((), (), ())
        return RowPreview(
            row.source, empty, None, is_heldout, counts.cut_tokens, _drop_note(counts)
        )
    (example,) = examples
    teacher = example.teacher_example
    return RowPreview(
        row.source,
        _preview_tokens(renderer, example.tokens, example.loss_mask),
        teacher and view and _preview_tokens(view.renderer, teacher.tokens, teacher.loss_mask),
        is_heldout,
        counts.cut_tokens,
        "",
    )


def _drop_note(counts: RowCounts) -> str:
    if counts.unpaired_rows:
        return "dropped: nothing of it can be compared with what the teacher reads"
    return "dropped: too long, or nothing to learn"


def _is_unwritten(row: Row) -> bool:
    """Return True if a rollout has no completion of the row; a written one has an end at least."""
    match row.content:
        case Tokens(completion=completion):
            return not completion
        case Text(completion=completion, is_finished=is_finished):
            return not completion and not is_finished
        case Chat(messages=messages, is_finished=is_finished):
            return not messages[-1]["content"] and not is_finished


def _preview_prompt(
    row: Row, renderer: Renderer, view: TeacherView | None, is_heldout: bool
) -> RowPreview:
    def prompt(row: Row, renderer: Renderer) -> TokenPreview:
        (tokens,) = tokenize_prompts([row], renderer)
        return _preview_tokens(renderer, tokens, [False] * len(tokens))

    teacher = view and prompt(apply_teacher_prompt(row), view.renderer)
    note = "the teacher writes the completion"
    return RowPreview(row.source, prompt(row, renderer), teacher, is_heldout, 0, note)


def _preview_tokens(
    renderer: Renderer, tokens: Sequence[int] | np.ndarray, loss_mask: Sequence[bool] | np.ndarray
) -> TokenPreview:
    ids, mask = tuple(map(int, tokens)), tuple(map(int, loss_mask))
    segments = [
        Segment(renderer.decode([token for token, _ in run], skip_special=False), bool(is_learned))
        for is_learned, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    ]
    return TokenPreview(ids, mask, tuple(segments))
