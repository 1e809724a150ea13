"""Evaluation of a model's completions on a task (`jaxdistill eval --task`)."""

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
    """Read a task from YAML, with `a.b=value` overrides; UserError names every mistake."""
    return load(evals.Task, path, overrides)


def evaluate_task(
    model: str,
    task: evals.Task,
    *,
    sources: Sequence[str],
    batch_size: int = 8,
    dtype: str = "float32",
) -> dict[str, evals.Estimate]:
    """Return the mean of each metric of a task over all rows, with its interval.

    The model is as for `open_model`, sources as in `DataConfig.sources`. Raises UserError if files
    or rows are wrong, or if a prompt is too long for the model.
    """
    prompts = make_task_prompts(task, sources)
    scores = score_task(model, task, prompts, batch_size=batch_size, dtype=dtype)
    return {name: evals.mean(values) for name, values in scores.items()}


def make_task_prompts(task: evals.Task, sources: Sequence[str]) -> list[evals.TaskPrompt]:
    """Read the rows of a task, and make the prompt of each row."""
    findings = ErrorCollector()
    rows = [row for source in sources for row in data.read_rows(source, findings)]
    findings.raise_if_any()
    return evals.make_prompts(task, rows)


def check_task(model: str, task: evals.Task, task_prompts: Sequence[evals.TaskPrompt]) -> None:
    """Check that a model can read all prompts of a task, before its weights are read."""
    source = model_source(model)
    prompts = [task_prompt.prompt for task_prompt in task_prompts]
    tokens = _tokenize_prompts(task, prompts, source.load_tokenizer())
    check_token_ids(source.language_model, tokens, "prompt")


def score_task(
    path: str,
    task: evals.Task,
    task_prompts: Sequence[evals.TaskPrompt],
    *,
    batch_size: int = 8,
    dtype: str = "float32",
) -> dict[str, Float[np.ndarray, " R"]]:
    """Return each metric of a task for every row; otherwise like `evaluate_task`."""
    model = open_model(path, dtype=dtype)

    def generate(prompts: Sequence[str], sampling: Sampling, seed: int) -> list[str]:
        tokens = _tokenize_prompts(task, prompts, model.tokenizer)
        with Progress(f"completions, seed {seed}", len(tokens)) as progress:
            return model.decode(
                model.generate_tokens(
                    tokens, sampling, seed=seed, batch_size=batch_size, on_batch=progress.advance_to
                )
            )

    return evals.row_scores(task, task_prompts, generate)


def _tokenize_prompts(
    task: evals.Task, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    is_chat = task.prompt_template == "chat"
    return [data.tokenize_prompt(prompt, tokenizer, as_chat=is_chat) for prompt in prompts]
