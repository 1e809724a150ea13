"""A task: what a model is asked of each row, and how its answers are scored."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, Field

from jaxdistill.config import configclass
from jaxdistill.data.field_template import field_to_text, fill_template, lookup_field
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.evals.bootstrap import Estimate, mean
from jaxdistill.evals.text_metrics import TEXT_METRICS
from jaxdistill.sampling import Sampling

GenerateTexts = Callable[[Sequence[str], Sampling, int], Sequence[str]]
"""Prompts, how to sample, and a seed in; a text for each prompt out."""

_MetricName = Literal[
    "exact_match", "number_match", "f1", "rouge_l", "bleu", "chrf", "character_error_rate"
]


def _check_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from None
    return pattern


_Regex = Annotated[str, AfterValidator(_check_regex)]


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
    metrics: Annotated[tuple[_MetricName, ...], Field(min_length=1)]
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    answer_pattern: _Regex | None = None
    reference_pattern: _Regex | None = None
    sampling: Sampling = Sampling()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)


@dataclass(frozen=True)
class TaskPrompt:
    """A row as the task puts it.

    Attributes:
        place: Where the row stands.
        prompt: What the model reads.
        references: The right answers.
    """

    source: str
    prompt: str
    references: tuple[str, ...]


def make_prompts(task: Task, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[TaskPrompt]:
    """What is asked of each row.

    Args:
        task: The task.
        records: Where each row stands, and its fields.

    Raises:
        UserError: naming the rows that lack what the task speaks of, or the library that a metric
            needs and that is not there; or when there is no row.
    """
    for name in task.metrics:
        TEXT_METRICS[name]("a", ["a"])
    findings = ErrorCollector()
    found = []
    for place, row in rows:
        with findings.collect(place):
            prompt = fill_template(task.prompt, row, template_name="the task")
            found.append(TaskPrompt(place, prompt, _extract_references(task, row)))
    findings.raise_if_any()
    if not found:
        raise UserError("task: there is no row to ask. Give a file with at least one.")
    return found


def mean_scores(
    task: Task, task_prompts: Sequence[TaskPrompt], generate: GenerateTexts
) -> dict[str, Estimate]:
    """Each metric over all rows, with its interval for other rows of the kind."""
    return {name: mean(values) for name, values in row_scores(task, task_prompts, generate).items()}


def row_scores(
    task: Task, task_prompts: Sequence[TaskPrompt], generate: GenerateTexts
) -> dict[str, Float[np.ndarray, " R"]]:
    """Each metric of every row, the mean of its answers with all seeds."""
    values = {name: np.zeros(len(task_prompts)) for name in task.metrics}
    prompts = [question.prompt for question in task_prompts]
    for seed in task.seeds:
        texts = generate(prompts, task.sampling, seed)
        for place, (text, question) in enumerate(zip(texts, task_prompts, strict=True)):
            said = (
                _extract_last_match(task.answer_pattern, _truncate_at_stop(text, task.stop)) or ""
            )
            for name in task.metrics:
                values[name][place] += TEXT_METRICS[name](said, question.references)
    return {name: value / len(task.seeds) for name, value in values.items()}


def _extract_references(task: Task, fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = lookup_field(task.reference, fields, template_name="the task")
    several = value if isinstance(value, list) else [value]
    values = [field_to_text(one, task.reference) for one in several if one is not None]
    if not values:
        raise UserError(f"`{task.reference}` holds no right answer.")
    found = [_extract_last_match(task.reference_pattern, one) for one in values]
    if None in found:
        raise UserError(
            f"`{task.reference}` is {values[found.index(None)][:60]!r}, in which the task's "
            f"`reference_pattern` {task.reference_pattern!r} finds no right answer."
        )
    return tuple(one for one in found if one is not None)


def _truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    ends = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text


def _extract_last_match(pattern: str | None, text: str) -> str | None:
    """The last match, or None where there is none; the whole text without a pattern."""
    if pattern is None:
        return text.strip()
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    return ((found[-1][1] if found[-1].re.groups else found[-1][0]) or "").strip()
