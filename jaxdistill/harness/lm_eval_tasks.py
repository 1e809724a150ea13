"""`eval --lm-eval`: tasks of lm-evaluation-harness, its own or those of a folder."""

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
    """What the harness measures of a model: `task/metric` and its standard error, by name.

    Args:
        model: As for `run.open_model`.
        tasks: Tasks or groups of tasks, by name.
        include_path: A folder whose YAML files describe more tasks.
        limit: How many rows of each task are asked; None is all.
        fewshot: How many solved rows stand before each; None leaves it to the task.
        as_chat: Whether what is asked is put into the tokenizer's chat template.
        batch_size: How many requests are read, or answers written, together.
        dtype: What the model is computed in.

    Raises:
        UserError: when there is no such task, its rows cannot be had, or there is no such model.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise UserError(f"--include-path: {include_path} is no folder of tasks.")
    # With `Pool` it would fork this process, which JAX's threads do not survive.
    os.environ["DISABLE_MULTIPROC"] = "1"
    with redirect_stdout(sys.stderr):  # standard output is for results
        manager = _CheckedTaskManager(include_path=include_path)
        manager.check(tasks)
        said = simple_evaluate(
            model=HarnessModel(model, dtype=dtype, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            bootstrap_iters=_BOOTSTRAP_ITERS,
            log_samples=False,
        )
    assert said is not None, "there is one process"
    return _flatten_results(said)


class _CheckedTaskManager(TaskManager):
    """The harness's tasks, whose mistakes are the user's to mend."""

    def check(self, names: Sequence[str]) -> None:
        """See that there are tasks or groups of these names.

        Raises:
            UserError: naming every one that is not there.
        """
        if unknown := [name for name in names if name not in self.task_index]:
            raise UserError(
                *(
                    f"--lm-eval: there is no task {name!r} among {len(self.all_tasks):,}."
                    f"{did_you_mean(name, self.all_tasks)}"
                    for name in unknown
                ),
                "`lm_eval ls tasks` lists the harness's own; `--include-path DIR` brings others.",
            )

    def load(self, task_list: Any) -> Any:
        """The tasks with their rows.

        Raises:
            UserError: when a task cannot be made, or its rows cannot be had.
        """
        names = ", ".join(task_list)
        try:
            loaded = super().load(task_list)
        # A task is a file of the user's and may hold code: whatever it raises is theirs to mend.
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
                    f"--lm-eval {name}: needs to run what the model writes, or pictures or sound: "
                    "neither is done here. Choose another task."
                )
        return loaded


def _flatten_results(results: Mapping[str, Any]) -> dict[str, float]:
    """`task/metric`, and `task/metric/filter` where a task filters answers in several ways."""
    values = {}
    for task, found in results["results"].items():
        for key, value in found.items():
            metric, comma, chosen = key.partition(",")
            if comma:
                name = f"{task}/{metric}" if chosen == "none" else f"{task}/{metric}/{chosen}"
                values[name] = float(value) if isinstance(value, int | float) else math.nan
    return values
