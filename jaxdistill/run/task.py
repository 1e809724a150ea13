"""`eval --task`: a model's answers to the rows of some data, scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, evals
from jaxdistill.config import load
from jaxdistill.errors import ErrorCollector
from jaxdistill.run.evaluate import model_source, open_model
from jaxdistill.sampling import Sampling, check_token_ids
from jaxdistill.track import Progress


def load_task(path: str | Path, overrides: Sequence[str] = ()) -> evals.Task:
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
    asked = make_task_prompts(task, sources)
    answer = _make_answer_function(model, task, batch_size=batch_size, dtype=dtype)
    return evals.mean_scores(task, asked, answer)


def make_task_prompts(task: evals.Task, sources: Sequence[str]) -> list[evals.TaskPrompt]:
    """What a task asks of each row.

    Raises:
        UserError: when files or rows are wrong, or a metric lacks its library.
    """
    findings = ErrorCollector()
    rows = [record for source in sources for record in data.read_rows(source, findings)]
    findings.raise_if_any()
    return evals.make_prompts(task, rows)


def check_task(model: str, task: evals.Task, task_prompts: Sequence[evals.TaskPrompt]) -> None:
    """See that a model can read what a task asks, before its weights are read.

    Raises:
        UserError: naming every prompt that is too long for it, or that it has no template for
            chats.
    """
    source = model_source(model)
    prompts = [question.prompt for question in task_prompts]
    check_token_ids(
        source.config, _tokenize_prompts(task, prompts, source.load_tokenizer()), "prompt"
    )


def score_task(
    model: str, task: evals.Task, task_prompts: Sequence[evals.TaskPrompt], *, batch_size: int = 8
) -> dict[str, Float[np.ndarray, " R"]]:
    """Each metric of every row; as for `evaluate_task`."""
    return evals.row_scores(
        task, task_prompts, _make_answer_function(model, task, batch_size=batch_size)
    )


def _make_answer_function(
    model: str, task: evals.Task, *, batch_size: int, dtype: str = "float32"
) -> evals.GenerateTexts:
    opened = open_model(model, dtype=dtype)

    def answer(prompts: Sequence[str], sampling: Sampling, seed: int) -> list[str]:
        tokens = _tokenize_prompts(task, prompts, opened.tokenizer)
        with Progress(f"answers, seed {seed}", len(tokens)) as progress:
            return opened.decode(
                opened.generate_tokens(
                    tokens, sampling, seed=seed, batch_size=batch_size, on_batch=progress.advance_to
                )
            )

    return answer


def _tokenize_prompts(
    task: evals.Task, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    is_chat = task.prompt_template == "chat"
    return [data.tokenize_prompt(one, tokenizer, as_chat=is_chat) for one in prompts]
