"""`eval --lm-eval` from a folder of tasks to numbers, and what is said of mistakes."""

import functools
import importlib
import json
import math
import sys

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from jaxdistill.cli import main

MODULE = importlib.import_module(
    "jaxdistill.harness.lm_eval_tasks"
)  # the package's `evaluate` is the function
NAMES = ("tiny_choice", "tiny_write", "tiny_perplexity")

pytestmark = pytest.mark.filterwarnings("default")  # the harness's warnings are not ours


@pytest.fixture
def evaluate(place, capsys, monkeypatch):
    """Runs `eval` on the tiny model: `(exit code, what it printed, what it complained of)`."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    # What takes seconds and is the same for every test: to index the harness's own tasks, and to
    # ask the machine what it is.
    own_only = functools.partial(MODULE._CheckedTaskManager, include_defaults=False)
    monkeypatch.setattr(MODULE, "_CheckedTaskManager", own_only)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["eval", "--model", str(place / "model"), *map(str, arguments)])
        printed, complained = capsys.readouterr()
        return code, printed, complained

    return run


def test_every_kind_of_task_is_what_the_harness_says_of_its_own_model(place, evaluate):
    code, printed, complained = evaluate(
        "--lm-eval", *NAMES, "--include-path", place / "tasks", "--json"
    )
    assert code == 0, complained
    values = json.loads(printed)
    assert {"tiny_choice/acc", "tiny_choice/acc_stderr", "tiny_write/exact_match"} <= set(values)

    theirs = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(place / "model"), "device": "cpu", "dtype": "float32"},
        tasks=[*NAMES],
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        bootstrap_iters=1000,
        log_samples=False,
    )
    for task, found in theirs["results"].items():
        for key, value in found.items():
            if key.endswith(",none"):
                ours = values[f"{task}/{key.removesuffix(',none')}"]
                is_number = isinstance(value, float | int) and math.isfinite(value)
                assert ours == (pytest.approx(value, rel=1e-5) if is_number else None)


def test_limit_fewshot_and_chat_are_the_tasks_to_obey(place, evaluate, monkeypatch):
    seen = []

    def watched(*arguments, **options):
        seen.append(options)
        return simple_evaluate(*arguments, **options)

    monkeypatch.setattr(MODULE, "simple_evaluate", watched)
    tasks = ("--lm-eval", "tiny_choice", "--include-path", place / "tasks")
    said = [
        evaluate(*tasks, *more)
        for more in (("--limit", 3), ("--fewshot", 2), ("--prompt-template", "chat"))
    ]
    plain, logged = said[0][1], [complained for _, _, complained in said]
    assert "tiny_choice/acc " in plain
    assert [call["limit"] for call in seen] == [3, None, None]
    assert [call["num_fewshot"] for call in seen] == [None, 2, None]
    assert [call["apply_chat_template"] for call in seen] == [False, False, True]
    assert "requests 9/9" in logged[0]  # three rows of three choices


@pytest.mark.parametrize(
    ("arguments", "said"),
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
        (("--lm-eval", "x", "--include-path", "nowhere"), "nowhere is no folder of tasks"),
    ],
)
def test_mistakes_are_said_in_lines(place, evaluate, monkeypatch, arguments, said):
    monkeypatch.chdir(place)  # a task that names no files has `datasets` look at all that are here
    for name, path in (("broken", "json"), ("remote", "someone/rows")):
        task = f"task: {name}\ndataset_path: {path}\n"
        (place / "tasks" / f"{name}.yaml").write_text(task)
    if "--lm-eval" in arguments and "--include-path" not in arguments:
        arguments = (*arguments, "--include-path", place / "tasks")
    code, printed, complained = evaluate(*arguments)
    assert code == 2
    assert printed == ""
    for part in said.split("{n}"):
        assert part in complained
    assert "Traceback" not in complained


def test_without_the_extra_it_says_what_to_install(evaluate, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("jaxdistill.harness")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["jaxdistill"], "harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, _, complained = evaluate("--lm-eval", "tiny_choice")
    assert code == 2
    assert "pip install 'jaxdistill[lm-eval]'" in complained
