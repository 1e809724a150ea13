"""Dataset: the rows bring their answers."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxdistill.config import configclass
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.writer import Writer
from jaxdistill.data.rows import Row
from jaxdistill.data.templates import Templates
from jaxdistill.errors import Findings, UserError


@ROLLOUTS.register
@configclass
class DatasetRollout:
    """Learn from what the rows say."""

    type: Literal["dataset"] = "dataset"

    needs_teacher: ClassVar[bool] = False

    def complete(
        self, rows: Sequence[Row], *, templates: Templates, length: int, writer: Writer | None
    ) -> list[Row]:
        """The rows as they are.

        Raises:
            UserError: where one has a prompt only.
        """
        del templates, length, writer
        findings = Findings()
        for row in rows:
            with findings.collect(row.place):
                if not row.has_answer:
                    raise UserError(
                        "a prompt without an answer. Add a `completion` (or a last message of the "
                        "assistant), or let the teacher write it: `data.rollout.type=teacher`."
                    )
        findings.raise_any()
        return list(rows)
