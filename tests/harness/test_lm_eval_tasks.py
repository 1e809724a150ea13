"""The command `eval --lm-eval` on a folder of tasks, and its errors."""

import functools
import importlib
import json
import math
import sys

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from jaxdistill.cli import main

MODULE = importlib.import_module("jaxdistill.harness.lm_eval_tasks")
NAMES = ("tiny_choice", "tiny_write", "tiny_perplexity")

pytestmark = pytest.mark.filterwarnings("default")  # the harness's warnings are not ours


@pytest.fixture
def evaluate(workspace, capsys, monkeypatch):
    """Run `eval` on the tiny model; returns exit code, standard output and standard error."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    # Indexing the harness's own tasks and describing the machine take seconds in every test.
    own_only = functools.partial(MODULE._CheckedTaskManager, include_defaults=False)
    monkeypatch.setattr(MODULE, "_CheckedTaskManager", own_only)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["eval", "--model", str(workspace / "model"), *map(str, arguments)])
        stdout, stderr = capsys.readouterr()
        return code, stdout, stderr

    return run


def test_every_kind_of_task_scores_as_with_the_harness_hf_model(workspace, evaluate):
    code, stdout, stderr = evaluate(
        "--lm-eval", *NAMES, "--include-path", workspace / "tasks", "--json", "--batch-size", 4
    )
    assert code == 0, stderr
    values = json.loads(stdout)
    assert {"tiny_choice/acc", "tiny_choice/acc_stderr", "tiny_write/exact_match"} <= set(values)

    expected = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(workspace / "model"), "device": "cpu", "dtype": "float32"},
        tasks=[*NAMES],
        task_manager=TaskManager(include_path=str(workspace / "tasks"), include_defaults=False),
        bootstrap_iters=1000,
        log_samples=False,
    )
    for task, metrics in expected["results"].items():
        for key, value in metrics.items():
            if key.endswith(",none"):
                ours = values[f"{task}/{key.removesuffix(',none')}"]
                is_number = isinstance(value, float | int) and math.isfinite(value)
                assert ours == (pytest.approx(value, rel=1e-5) if is_number else None)


def test_limit_fewshot_and_chat_reach_the_harness(workspace, evaluate, monkeypatch):
    calls = []

    def record_call(*arguments, **options):
        calls.append(options)
        return simple_evaluate(*arguments, **options)

    monkeypatch.setattr(MODULE, "simple_evaluate", record_call)
    tasks = ("--lm-eval", "tiny_choice", "--include-path", workspace / "tasks", "--batch-size", 4)
    _, stdout, stderr = evaluate(*tasks, "--limit", 3)
    assert "tiny_choice/acc " in stdout
    assert "requests 9/9" in stderr  # three rows of three choices
    evaluate(*tasks, "--fewshot", 2)
    evaluate(*tasks, "--prompt-template", "chat")
    assert [call["limit"] for call in calls] == [3, None, None]
    assert [call["num_fewshot"] for call in calls] == [None, 2, None]
    assert [call["apply_chat_template"] for call in calls] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lm-eval", "tiny_choise"), "no task 'tiny_choise' among {n}. Did you mean `tiny_ch"),
        (("--lm-eval", "remote"), "--lm-eval remote: cannot be loaded: Couldn't reach"),
        (("--lm-eval", "broken"), "--lm-eval broken: cannot be loaded:"),
        (("--lm-eval", "tiny_choice", "--length", 9), "eval: `--length` is about the rows of"),
        (("--data", "x.jsonl", "--limit", 9), "eval: `--limit` belongs to `--lm-eval TASK`"),
        (
            ("--data", "x.jsonl", "--task", "t", "--length", 9),
            "eval: `--length` is about the likeli",
        ),
        (("--lm-eval", "x", "--include-path", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_mistakes_end_in_messages_without_traceback(
    workspace, evaluate, monkeypatch, arguments, message
):
    monkeypatch.chdir(workspace)  # `datasets` looks for files in the working folder
    for name, path in (("broken", "json"), ("remote", "someone/rows")):
        task = f"task: {name}\ndataset_path: {path}\n"
        (workspace / "tasks" / f"{name}.yaml").write_text(task)
    if "--lm-eval" in arguments and "--include-path" not in arguments:
        arguments = (*arguments, "--include-path", workspace / "tasks")
    code, stdout, stderr = evaluate(*arguments)
    assert code == 2
    assert stdout == ""
    for part in message.split("{n}"):
        assert part in stderr
    assert "Traceback" not in stderr


def test_a_missing_extra_names_the_command_that_installs_it(evaluate, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("jaxdistill.harness")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["jaxdistill"], "harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, _, stderr = evaluate("--lm-eval", "tiny_choice")
    assert code == 2
    assert "pip install 'jaxdistill[lm-eval]'" in stderr
