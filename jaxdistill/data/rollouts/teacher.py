"""Teacher rollout: completions that the teacher generates once, before training.

Kim and Rush, "Sequence-Level Knowledge Distillation", 2016, https://arxiv.org/abs/1606.07947.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rollouts.stop_strings import StopStrings
from jaxdistill.data.rows import Row, Tokens, apply_teacher_prompt
from jaxdistill.data.tokenization import tokenize_prompts
from jaxdistill.errors import UserError


@ROLLOUTS.register
@configclass
class TeacherRollout:
    """Learn completions that the teacher generates (sequence-level KD).

    Completions in the rows, if any, are not used.

    Attributes:
        max_new_tokens: Maximum number of tokens in a completion. The end of a completion that is
            cut off there is not learned.
        temperature: 0 takes the most probable token, 1 samples from the teacher's distribution.
        stop: Stop strings. A completion ends before the first of them, and counts as finished
            there. A row is dropped if nothing is left of its completion.
        top_k: Sample from this many of the most probable tokens; 0 for no limit.
        top_p: Sample from the most probable tokens that together have this probability, at least
            1e-6.
        seed: Seed of the sampling.
        batch_size: Number of prompts that are completed at once.
        directory: Folder of the file of completions; null is the run folder. Runs with the same
            teacher, prompts and options can share a folder: the first of them generates.
    """

    type: Literal["teacher"] = "teacher"
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1)] = 1.0
    seed: int = 0
    batch_size: Annotated[int, Field(gt=0)] = 32
    directory: Annotated[str, Field(min_length=1)] | None = None

    needs_teacher: ClassVar[bool] = True

    def complete(
        self,
        rows: Sequence[Row],
        *,
        renderer: Renderer,
        length: int,
        generation_cache: GenerationCache | None,
    ) -> list[Row]:
        """Return the rows with the teacher's prompts and completions as exact tokens.

        A prompt that alone takes more than `length` positions is not completed. Its row has an
        empty completion, and is counted as dropped.

        Raises:
            UserError: if a row has no prompt, or if there are stop strings but no EOS token.
        """
        if generation_cache is None:
            raise ValueError("a teacher rollout needs a `generation_cache`")
        if self.stop and not generation_cache.eos_ids:
            raise UserError(
                "data.rollout.stop: this teacher has no token that ends a completion. Name it as "
                "`eos_token_id` in its `config.json`, or leave `stop` out."
            )
        prompts = [tuple(prompt) for prompt in tokenize_teacher_prompts(rows, renderer)]
        short = {
            prompt: apply_teacher_prompt(row)
            for row, prompt in zip(rows, prompts, strict=True)
            if len(prompt) <= length
        }
        completions = generation_cache.get_completions(
            short,
            path=generation_cache.path(self._cache_settings()),
            batch_size=self.batch_size,
            seed=self.seed,
            stop=StopStrings(self.stop, renderer, generation_cache.eos_ids),
        )
        return [
            replace(row, content=Tokens(prompt, completions.get(prompt, ())))
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def _cache_settings(self) -> dict[str, object]:
        """Options that the completions depend on; they are part of the cache file's name."""
        ignored = ("type", "batch_size", "directory", *(() if self.stop else ("stop",)))
        return {name: value for name, value in asdict(self).items() if name not in ignored}


def tokenize_teacher_prompts(rows: Sequence[Row], renderer: Renderer) -> list[list[int]]:
    """Tokenise the prompts, or `teacher_prompt`s; raise a UserError for rows without one."""
    teacher_rows = [apply_teacher_prompt(row) for row in rows]
    lines = [
        f"{row.source}: has no prompt for the teacher to complete. Add one, or learn the text "
        "itself: `data.rollout.type=dataset`."
        for row in teacher_rows
        if not row.has_prompt
    ]
    if lines:
        raise UserError(*lines)
    return tokenize_prompts(teacher_rows, renderer)
