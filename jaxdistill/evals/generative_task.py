"""Generative tasks: prompts made of rows, and text metrics of the completions."""

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
from jaxdistill.evals.text_metrics import TEXT_METRICS
from jaxdistill.sampling import Sampling

GenerateTexts = Callable[[Sequence[str], Sampling, int], Sequence[str]]
"""`(prompts, sampling, seed) -> completions`, one text for each prompt."""

_MetricName = Literal[
    "exact_match", "number_match", "f1", "rouge_l", "bleu", "chrf", "character_error_rate"
]


def _check_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from None
    return pattern


_Regex = Annotated[str, AfterValidator(_check_regex)]


@configclass
class Task:
    """A generative task: a prompt for each row, and metrics of its completion.

    Attributes:
        prompt: Template of the prompt; `{field}` is replaced by a field of the row.
        reference: Field with the correct answer, or a list of correct answers; `answers[text]`
            is a part of a field.
        prompt_template: `plain` gives the model the prompt as it is, `chat` as a user's message
            in the chat template of its tokenizer.
        metrics: Text metrics that compare a completion with the correct answers.
        stop: Stop strings: a completion is cut off before the first of them.
        answer_pattern: Regular expression that extracts the answer from a completion: the last
            match, or its first group if there is one. Null takes the whole completion.
        reference_pattern: The same for the reference.
        sampling: Sampling of the completions.
        seeds: Each row is completed once with each seed, and metrics are averaged. One seed is
            enough if `sampling` is greedy.
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
    """The prompt and the correct answers of a row; `source` is its file and line."""

    source: str
    prompt: str
    references: tuple[str, ...]


def make_prompts(task: Task, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[TaskPrompt]:
    """Make the prompt of each row, given as its source (file and line) and its fields.

    Raises:
        UserError: Some rows lack fields of the task (names every one), there is no row, or the
            library of a metric is not installed.
    """
    for name in task.metrics:
        TEXT_METRICS[name]("a", ["a"])
    findings = ErrorCollector()
    prompts = []
    for source, fields in rows:
        with findings.collect(source):
            prompt = fill_template(task.prompt, fields, template_name="the task")
            prompts.append(TaskPrompt(source, prompt, _extract_references(task, fields)))
    findings.raise_if_any()
    if not prompts:
        raise UserError("task: the sources have no row. Give a file with at least one.")
    return prompts


def row_scores(
    task: Task, task_prompts: Sequence[TaskPrompt], generate: GenerateTexts
) -> dict[str, Float[np.ndarray, " R"]]:
    """Return each metric of every row, averaged over the seeds."""
    scores = {name: np.zeros(len(task_prompts)) for name in task.metrics}
    prompts = [task_prompt.prompt for task_prompt in task_prompts]
    for seed in task.seeds:
        completions = generate(prompts, task.sampling, seed)
        for row, (text, task_prompt) in enumerate(zip(completions, task_prompts, strict=True)):
            answer = _extract_last_match(task.answer_pattern, _truncate_at_stop(text, task.stop))
            for name in task.metrics:
                scores[name][row] += TEXT_METRICS[name](answer or "", task_prompt.references)
    return {name: score / len(task.seeds) for name, score in scores.items()}


def _extract_references(task: Task, fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = lookup_field(task.reference, fields, template_name="the task")
    values = value if isinstance(value, list) else [value]
    texts = [field_to_text(item, task.reference) for item in values if item is not None]
    if not texts:
        raise UserError(f"`{task.reference}` has no correct answer. Fill it in, or drop the row.")
    references = [_extract_last_match(task.reference_pattern, text) for text in texts]
    if None in references:
        raise UserError(
            f"`{task.reference}` is {texts[references.index(None)][:60]!r}, in which the task's "
            f"`reference_pattern` {task.reference_pattern!r} has no match."
        )
    return tuple(reference for reference in references if reference is not None)


def _truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    ends = [end for string in stop if (end := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def _extract_last_match(pattern: str | None, text: str) -> str | None:
    """Return the last match, or its first group; None without a match, all text if no pattern."""
    if pattern is None:
        return text.strip()
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    return ((matches[-1][1] if matches[-1].re.groups else matches[-1][0]) or "").strip()
