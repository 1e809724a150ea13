"""A task: what a model is asked of each row, and how its answers are scored."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, Field

from jaxdistill.config import configclass
from jaxdistill.data.fields import as_text, field, filled
from jaxdistill.errors import Findings, UserError
from jaxdistill.evals.bootstrap import Estimate, mean
from jaxdistill.evals.text import METRICS
from jaxdistill.sampling import Sampling

Answer = Callable[[Sequence[str], Sampling, int], Sequence[str]]
"""Prompts, how to sample, and a seed in; a text for each prompt out."""

_Metric = Literal[
    "exact_match", "number_match", "f1", "rouge_l", "bleu", "chrf", "character_error_rate"
]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from None
    return pattern


_Pattern = Annotated[str, AfterValidator(_compiles)]


@configclass
class Task:
    """What is asked and scored.

    Attributes:
        prompt: What the model reads, with `{field}` for what stands in a row.
        reference: The field that holds the right answer, or a list of right ones; a part of a
            field is `answers[text]`.
        prompt_template: `plain`: the prompt as it stands; `chat`: as a user's message.
        metrics: How an answer is compared with the right ones.
        stop: An answer ends before the first of these.
        answer_pattern: A regular expression; the last match in an answer (its first group, if it
            has one) is what is compared. Null compares all of it.
        reference_pattern: The same for what stands in the row.
        sampling: How answers are written.
        seeds: Each row is answered once with each; one is enough where `sampling` is greedy.
    """

    prompt: Annotated[str, Field(min_length=1)]
    reference: Annotated[str, Field(min_length=1)]
    prompt_template: Literal["plain", "chat"] = "plain"
    metrics: Annotated[tuple[_Metric, ...], Field(min_length=1)]
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    answer_pattern: _Pattern | None = None
    reference_pattern: _Pattern | None = None
    sampling: Sampling = Sampling()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)


@dataclass(frozen=True)
class Question:
    """A row as the task puts it.

    Attributes:
        place: Where the row stands.
        prompt: What the model reads.
        references: The right answers.
    """

    place: str
    prompt: str
    references: tuple[str, ...]


def questions(task: Task, records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Question]:
    """What is asked of each row.

    Args:
        task: The task.
        records: Where each row stands, and its fields.

    Raises:
        UserError: naming the rows that lack what the task speaks of, or the library that a metric
            needs and that is not there; or when there is no row.
    """
    for name in task.metrics:
        METRICS[name]("a", ["a"])
    findings = Findings()
    found = []
    for place, row in records:
        with findings.collect(place):
            prompt = filled(task.prompt, row, speaker="the task")
            found.append(Question(place, prompt, _references(task, row)))
    findings.raise_any()
    if not found:
        raise UserError("task: there is no row to ask. Give a file with at least one.")
    return found


def score(task: Task, asked: Sequence[Question], answer: Answer) -> dict[str, Estimate]:
    """Each metric over all rows, with its interval for other rows of the kind."""
    return {name: mean(values) for name, values in scores(task, asked, answer).items()}


def scores(
    task: Task, asked: Sequence[Question], answer: Answer
) -> dict[str, Float[np.ndarray, " R"]]:
    """Each metric of every row, the mean of its answers with all seeds."""
    values = {name: np.zeros(len(asked)) for name in task.metrics}
    prompts = [question.prompt for question in asked]
    for seed in task.seeds:
        texts = answer(prompts, task.sampling, seed)
        for place, (text, question) in enumerate(zip(texts, asked, strict=True)):
            said = _matched(task.answer_pattern, _until(text, task.stop)) or ""
            for name in task.metrics:
                values[name][place] += METRICS[name](said, question.references)
    return {name: value / len(task.seeds) for name, value in values.items()}


def _references(task: Task, fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = field(task.reference, fields, speaker="the task")
    several = value if isinstance(value, list) else [value]
    values = [as_text(one, task.reference) for one in several if one is not None]
    if not values:
        raise UserError(f"`{task.reference}` holds no right answer.")
    found = [_matched(task.reference_pattern, one) for one in values]
    if None in found:
        raise UserError(
            f"`{task.reference}` is {values[found.index(None)][:60]!r}, in which the task's "
            f"`reference_pattern` {task.reference_pattern!r} finds no right answer."
        )
    return tuple(one for one in found if one is not None)


def _until(text: str, stop: Sequence[str]) -> str:
    ends = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text


def _matched(pattern: str | None, text: str) -> str | None:
    """The last match, or None where there is none; the whole text without a pattern."""
    if pattern is None:
        return text.strip()
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    return ((found[-1][1] if found[-1].re.groups else found[-1][0]) or "").strip()
