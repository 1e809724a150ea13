"""Dataset: the rows bring their answers."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxdistill.config import configclass
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rows import Row
from jaxdistill.errors import ErrorCollector, UserError


@ROLLOUTS.register
@configclass
class DatasetRollout:
    """Learn from what the rows say."""

    type: Literal["dataset"] = "dataset"

    needs_teacher: ClassVar[bool] = False

    def complete(
        self,
        rows: Sequence[Row],
        *,
        renderer: Renderer,
        length: int,
        generation_cache: GenerationCache | None,
    ) -> list[Row]:
        """The rows as they are.

        Raises:
            UserError: where one has a prompt only.
        """
        del renderer, length, generation_cache
        findings = ErrorCollector()
        for row in rows:
            with findings.collect(row.source):
                if not row.has_completion:
                    raise UserError(
                        "a prompt without an answer. Add a `completion` (or a last message of the "
                        "assistant), or let the teacher write it: `data.rollout.type=teacher`."
                    )
        findings.raise_if_any()
        return list(rows)
