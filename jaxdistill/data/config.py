"""Config of the data: sources, held-out split, rollout, and conversion to token sequences."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxdistill.config import configclass
from jaxdistill.data.examples import LossOn, Truncation
from jaxdistill.data.reasoning import Reasoning
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.dataset import DatasetRollout


def _as_tuple(value: Any) -> Any:
    """Wrap a single name in a tuple, so that YAML may give it without a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Sources = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]

_RowField = Literal["text", "prompt", "completion", "teacher_prompt", "messages", "tools", "system"]


@configclass
class DataConfig:
    """Rows to train and evaluate on, and how they become token sequences.

    Attributes:
        sources: JSONL files, Parquet files, folders written by `datasets.save_to_disk`, or Hub
            names (`org/name` or `org/name/config`). A folder or a Hub name may end in `:split`.
        heldout: Fraction of `sources` to evaluate on and never train on. A hash of its prompt
            decides for each row, so it keeps its side when rows are added, sorted or completed.
        heldout_seed: Seed of that hash; another seed holds out other rows.
        heldout_sources: Rows to evaluate on, in the form of `sources`. If given, `heldout` is
            ignored, and rows of `sources` with the same prompt as a held-out row are left out.
        fields: Templates that make a row from the fields of its source, by the name of the row's
            field: `{prompt: "Question: {question}", completion: " {answer}"}`. `messages` and
            `tools` take one field whole: `{messages: "{dialog}"}`. A `teacher_prompt`, `tools` and
            `system` of the source are kept where no template replaces them.
        bad_rows: Treatment of rows that cannot be read, or that a chat template refuses: `refuse`
            reports all of them and stops, `drop` leaves them out, counted with reasons.
        rollout: Origin of the completions to learn: the rows themselves (`dataset`) or the teacher
            (`teacher`).
        heldout_answers: Completions to evaluate on: from the `rollout`, as in training, or those
            of the held-out `rows`.
        prompt_template: Use of a prompt that is a string. `plain`: as it is, with the completion
            right after it. `chat`: as a user message in the tokenizer's chat template.
        loss_on: Tokens to learn: those of the `completion` (in a conversation, of every assistant
            turn), or `all`.
        reasoning: Treatment of `<think>…</think>` in the turns of the assistant: `keep` learns what
            the chat template writes of it, `mask` reads it without learning it, `drop` removes it
            from the rows. What a teacher writes is masked by both.
        length: Number of positions in a sequence. A row of n tokens takes n - 1 positions, because
            its last token is only a label.
        truncation: Treatment of a longer row: cut its end, cut its start, or drop it. Cut tokens
            and dropped rows are counted and reported.
        pack: Put several rows into one sequence. Packed rows do not attend to each other.
        unpaired: Treatment of a row that cannot be compared with a teacher of another tokenizer,
            because one of the two cannot encode its completion: drop and count it, or refuse it.
    """

    sources: Annotated[_Sources, Field(min_length=1)]
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    heldout_seed: int = 0
    heldout_sources: _Sources = ()
    fields: dict[_RowField, str] = Field(default_factory=dict)
    bad_rows: Literal["refuse", "drop"] = "refuse"
    rollout: ROLLOUTS.union = DatasetRollout()  # pyright: ignore[reportInvalidTypeForm]
    heldout_answers: Literal["rollout", "rows"] = "rollout"
    prompt_template: Literal["plain", "chat"] = "plain"
    loss_on: LossOn = "completion"
    reasoning: Reasoning = "keep"
    length: Annotated[int, Field(gt=0)] = 1024
    truncation: Truncation = "cut_end"
    pack: bool = True
    unpaired: Literal["drop", "refuse"] = "drop"
