"""Rows that cannot be used: a chat template refuses them, or the rollout misses a part."""

from collections.abc import Sequence
from dataclasses import replace

from jaxdistill.data.config import DataConfig
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Row, Tokens, apply_teacher_prompt
from jaxdistill.data.split import DataSplit
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.errors import ErrorCollector, UserError


def drop_refused_rows(
    config: DataConfig, split: DataSplit, renderer: Renderer, teacher_view: TeacherView | None
) -> DataSplit:
    """Return the split without rows that cannot be used, if `data.bad_rows=drop`.

    These are rows that a chat template refuses, and rows without what the rollout needs of them.
    """
    if config.bad_rows == "refuse":
        return split
    bad_rows = ErrorCollector()

    def usable(rows: Sequence[Row]) -> list[Row]:
        kept: list[Row] = []
        for row in rows:
            with bad_rows.collect(row.source):
                _check_usable(config, row, renderer, teacher_view)
                kept.append(row)
        return kept

    train, heldout = usable(split.train), usable(split.heldout)
    if not train:
        bad_rows.raise_if_any()
    return replace(split, train=train, heldout=heldout, bad_rows=split.bad_rows + bad_rows.lines)


def _check_usable(
    config: DataConfig, row: Row, renderer: Renderer, teacher_view: TeacherView | None
) -> None:
    teacher_row = apply_teacher_prompt(row)
    views = (
        [(row, renderer)]
        if teacher_view is None
        else [(row, renderer), (teacher_row, teacher_view.renderer)]
    )
    if config.rollout.needs_teacher:
        if not teacher_row.has_prompt:
            raise UserError("has no prompt for the teacher to complete.")
    elif not row.has_completion:
        raise UserError("a prompt without a completion.")
    for view, its_renderer in views:
        if not isinstance(view.content, Tokens):
            its_renderer.check_chat_template([view])
            if config.rollout.needs_teacher:
                its_renderer.render_prompt(view.content)
            else:
                its_renderer.render(view.content)
