"""Tasks of lm-evaluation-harness, its own or a folder's: `jaxdistill eval --lm-eval`."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.harness.lm_eval_model import HarnessModel

_BOOTSTRAP_ITERS = 1000


def evaluate(
    model: str,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    batch_size: int = 8,
    dtype: str = "float32",
) -> dict[str, float]:
    """Evaluate a model on tasks of the harness.

    Args:
        model: As for `run.open_model`.
        tasks: Names of tasks or groups of tasks.
        include_path: A folder whose YAML files define more tasks.
        limit: Rows evaluated per task; None for all.
        num_fewshot: Solved examples in front of each row; None for the task's own number.
        apply_chat_template: Formats prompts by the tokenizer's chat template.
        batch_size: Requests scored, or completions generated, at a time.
        dtype: Dtype of parameters and computation.

    Returns:
        Metrics and standard errors by `task/metric`, with `/filter` behind it where a task has
        several.

    Raises:
        UserError: There is no such task, its rows cannot be loaded, or there is no such model.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise UserError(
            f"--include-path: {include_path} is not a folder. Give one that holds tasks as YAML."
        )
    # With `Pool` it would fork this process, which JAX's threads do not survive.
    os.environ["DISABLE_MULTIPROC"] = "1"
    with redirect_stdout(sys.stderr):  # standard output is for results
        manager = _CheckedTaskManager(include_path=include_path)
        if unknown := [name for name in tasks if name not in manager.task_index]:
            known = manager.all_tasks
            raise UserError(
                *(
                    f"--lm-eval: there is no task {name!r} among {len(known):,}."
                    f"{did_you_mean(name, known)}"
                    for name in unknown
                ),
                "`lm_eval ls tasks` lists the harness's own; `--include-path DIR` brings others.",
            )
        results = simple_evaluate(
            model=HarnessModel(model, dtype=dtype, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            bootstrap_iters=_BOOTSTRAP_ITERS,
            log_samples=False,
        )
    assert results is not None, "None is returned only by further processes"
    return _flatten_results(results)


class _CheckedTaskManager(TaskManager):
    """Task manager of the harness that raises `UserError` for broken tasks."""

    def load(self, task_list: Any) -> Any:
        """Load tasks with their rows.

        Raises:
            UserError: A task is broken or not supported, or its rows cannot be loaded.
        """
        names = ", ".join(task_list)
        try:
            loaded = super().load(task_list)
        # A task is a file that may hold code of the user, which may raise anything.
        except Exception as error:  # noqa: BLE001
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--lm-eval {names}: cannot be loaded: {reason[:300]}",
                "The harness's own tasks fetch their rows from the hub; a task of `--include-path` "
                "may name files (`dataset_path: json`, `dataset_kwargs.data_files`).",
            ) from None
        for name, task in loaded["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                raise UserError(
                    f"--lm-eval {name}: runs generated code or reads images or sound, which is not "
                    "supported. Choose another task."
                )
        return loaded


def _flatten_results(results: Mapping[str, Any]) -> dict[str, float]:
    """Name each number `task/metric`, or `task/metric/filter` where it belongs to a filter."""
    values = {}
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, comma, filter_name = key.partition(",")
            if comma:
                suffix = "" if filter_name == "none" else f"/{filter_name}"
                name = f"{task}/{metric}{suffix}"
                values[name] = float(value) if isinstance(value, int | float) else math.nan
    return values
