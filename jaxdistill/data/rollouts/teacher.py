"""Teacher: the teacher answers the rows' prompts, once, before training (sequence-level KD).

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
from jaxdistill.errors import ErrorCollector, UserError


@ROLLOUTS.register
@configclass
class TeacherRollout:
    """Learn from the teacher's own answers; those in the rows, if any, are put aside.

    Attributes:
        max_new_tokens: Where an answer is broken off. It then has no end, and none is learned.
        temperature: 0 takes the likeliest token, 1 samples from the teacher as it is.
        stop: An answer ends before the first of these texts, and counts as finished there. Where
            nothing is left of it, its row is dropped.
        top_k: Sample from so many of the likeliest tokens; 0 is all.
        top_p: Sample from the likeliest tokens that have this much probability together.
        seed: Another number, other answers (where they are sampled).
        batch_size: How many prompts are answered at once.
        directory: Where the file of answers is kept; null for the run folder. Runs that ask the
            same teacher the same may share it, and the first of them asks.
    """

    type: Literal["teacher"] = "teacher"
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
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
        """The rows with what the teacher was asked and answered, as exact tokens of its own.

        A prompt that fills the `length` places alone is not asked; its row has no answer then,
        and is counted among the dropped.

        Raises:
            UserError: where a row has no prompt, or an answer is to stop and cannot.
        """
        if generation_cache is None:
            raise ValueError("a teacher's rollout needs a `writer`")
        if self.stop and not generation_cache.eos_ids:
            raise UserError(
                "data.rollout.stop: this teacher has no token that ends an answer, so none can be "
                "ended. Name it as `eos_token_id` in its `config.json`, or leave `stop` out."
            )
        prompts = [tuple(prompt) for prompt in self.tokenize_teacher_prompts(rows, renderer)]
        asked = [place for place, prompt in enumerate(prompts) if len(prompt) <= length]
        answers = generation_cache.get_completions(
            [apply_teacher_prompt(rows[place]) for place in asked],
            [prompts[place] for place in asked],
            path=generation_cache.path(self._cache_settings()),
            tokenizer=renderer.tokenizer,
            batch_size=self.batch_size,
            seed=self.seed,
            stop=StopStrings(self.stop, renderer, generation_cache.eos_ids),
        )
        return [
            replace(row, content=Tokens(prompt, answers.get(prompt, ())))
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def tokenize_teacher_prompts(self, rows: Sequence[Row], renderer: Renderer) -> list[list[int]]:
        """What the teacher is asked, for each row: its `teacher_prompt`, if it has one.

        Raises:
            UserError: where a row has no prompt.
        """
        findings = ErrorCollector()
        asked = [apply_teacher_prompt(row) for row in rows]
        for row in asked:
            with findings.collect(row.source):
                if not row.has_prompt:
                    raise UserError(
                        "has no prompt for the teacher to answer. Give it one, or learn from "
                        "the text itself: `data.rollout.type=dataset`."
                    )
        findings.raise_if_any()
        return tokenize_prompts(asked, renderer)

    def _cache_settings(self) -> dict[str, object]:
        """What an answer depends on."""
        others = ("type", "batch_size", "directory", *(() if self.stop else ("stop",)))
        return {k: v for k, v in asdict(self).items() if k not in others}
