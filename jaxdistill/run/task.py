"""`eval --task`: a model's answers to the rows of some data, scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, evals
from jaxdistill.config import load
from jaxdistill.errors import Findings
from jaxdistill.run.evaluate import files, open_model
from jaxdistill.sampling import Sampling, check_tokens
from jaxdistill.track import Progress


def read_task(path: str | Path, overrides: Sequence[str] = ()) -> evals.Task:
    """The task in a YAML file; UserError names every mistake."""
    return load(evals.Task, path, overrides)


def evaluate_task(
    model: str,
    task: evals.Task,
    *,
    sources: Sequence[str],
    batch_size: int = 8,
    dtype: str = "float32",
) -> dict[str, evals.Estimate]:
    """Each metric of a task over all rows, with its interval.

    Args:
        model: As for `open_model`.
        task: What is asked, and how answers are scored.
        sources: Where the rows are, as in `DataConfig.sources`.
        batch_size: How many answers are written together.
        dtype: What the model is computed in.

    Raises:
        UserError: when files or rows are wrong, or a prompt is longer than the model reads.
    """
    asked = task_questions(task, sources)
    answer = _answer(model, task, batch_size=batch_size, dtype=dtype)
    return evals.score(task, asked, answer)


def task_questions(task: evals.Task, sources: Sequence[str]) -> list[evals.Question]:
    """What a task asks of each row.

    Raises:
        UserError: when files or rows are wrong, or a metric lacks its library.
    """
    findings = Findings()
    rows = [record for source in sources for record in data.records(source, findings)]
    findings.raise_any()
    return evals.questions(task, rows)


def check_task(model: str, task: evals.Task, asked: Sequence[evals.Question]) -> None:
    """See that a model can read what a task asks, before its weights are read.

    Raises:
        UserError: naming every prompt that is too long for it, or that it has no template for
            chats.
    """
    source = files(model)
    prompts = [question.prompt for question in asked]
    check_tokens(source.config, _tokens(task, prompts, source.load_tokenizer()), "prompt")


def task_scores(
    model: str, task: evals.Task, asked: Sequence[evals.Question], *, batch_size: int = 8
) -> dict[str, Float[np.ndarray, " R"]]:
    """Each metric of every row; as for `evaluate_task`."""
    return evals.scores(task, asked, _answer(model, task, batch_size=batch_size))


def _answer(
    model: str, task: evals.Task, *, batch_size: int, dtype: str = "float32"
) -> evals.Answer:
    opened = open_model(model, dtype=dtype)

    def answer(prompts: Sequence[str], sampling: Sampling, seed: int) -> list[str]:
        tokens = _tokens(task, prompts, opened.tokenizer)
        with Progress(f"answers, seed {seed}", len(tokens)) as progress:
            return opened.decode(
                opened.write(
                    tokens, sampling, seed=seed, batch_size=batch_size, on_batch=progress.reach
                )
            )

    return answer


def _tokens(
    task: evals.Task, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    is_chat = task.prompt_template == "chat"
    return [data.render_prompt(one, tokenizer, as_chat=is_chat) for one in prompts]
