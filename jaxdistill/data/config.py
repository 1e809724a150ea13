"""What a config says of the data."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxdistill.config import configclass
from jaxdistill.data.rollouts import ROLLOUTS
from jaxdistill.data.rollouts.dataset import DatasetRollout


def _as_tuple(value: Any) -> Any:
    """One name may stand without a list around it."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Sources = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]

_RowField = Literal["text", "prompt", "completion", "teacher_prompt"]


@configclass
class DataConfig:
    """Which rows are read, which of them are held out, and how they become sequences.

    Attributes:
        sources: JSONL files, Parquet files, folders of `datasets.save_to_disk`, or hub names
            (`org/name`, `org/name/config`; a folder or a hub name may end in `:split`).
        heldout: The fraction of `sources` that is never trained on. A hash of its prompt decides
            for each row, so that a row keeps its side whatever is added, sorted or answered anew.
        heldout_seed: Another number, another choice of held-out rows.
        heldout_sources: Rows to evaluate on; where given, `heldout` is not applied, and rows of
            `sources` that ask the same are left out.
        fields: What a row is made of, where the sources call it otherwise: for each of its parts a
            template, e.g. `{prompt: "Question: {question}", completion: " {answer}"}`. A row's own
            `teacher_prompt` stays.
        rollout: Where the answers come from: the rows themselves, or the teacher.
        heldout_answers: Which answers are measured on: those that come from there, too, or those
            that the rows have.
        prompt_template: How a prompt that is a string reads. `plain`: as it stands, and the
            completion right after it; `chat`: as a user's message in the tokenizer's template.
        loss_on: `completion` learns the answers (all turns of the assistant), `all` every token.
        length: How many places a sequence has; a row of n tokens takes n - 1 of them, for the
            last token is only predicted.
        truncation: What becomes of a row that is longer: it loses its end, loses its start, or is
            dropped. What was cut is counted and told.
        pack: Whether several rows may share a sequence. They do not see each other.
        unpaired: What becomes of a row that has nothing to compare with a teacher of another
            tokenizer, because one of the two cannot read its answer: it is dropped and counted, or
            refused.
    """

    sources: Annotated[_Sources, Field(min_length=1)]
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    heldout_seed: int = 0
    heldout_sources: _Sources = ()
    fields: dict[_RowField, str] = Field(default_factory=dict)
    rollout: ROLLOUTS.union = DatasetRollout()  # pyright: ignore[reportInvalidTypeForm]
    heldout_answers: Literal["rollout", "rows"] = "rollout"
    prompt_template: Literal["plain", "chat"] = "plain"
    loss_on: Literal["completion", "all"] = "completion"
    length: Annotated[int, Field(gt=0)] = 1024
    truncation: Literal["cut_end", "cut_start", "drop"] = "cut_end"
    pack: bool = True
    unpaired: Literal["drop", "refuse"] = "drop"
