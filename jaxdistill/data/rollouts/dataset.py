"""Dataset rollout: completions of the rows themselves."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxdistill.config import configclass
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rows import Row, require_completions


@ROLLOUTS.register
@configclass
class DatasetRollout:
    """Learn the completions in the rows."""

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
        """Return the rows unchanged, or raise a UserError that names those with a prompt only."""
        del renderer, length, generation_cache
        require_completions(rows)
        return list(rows)
