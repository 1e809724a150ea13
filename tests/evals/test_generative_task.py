"""A task makes a prompt of every row, and scores the answer that it extracts from a completion."""

import pytest

from jaxdistill.config import load
from jaxdistill.errors import UserError
from jaxdistill.evals import Task, make_prompts, row_scores
from jaxdistill.sampling import Sampling

MATHS = Task(
    prompt="{question}\nAnswer:",
    reference="answer",
    metrics=("exact_match",),
    answer_pattern=r"-?\d+",
    reference_pattern=r"#### (.*)",
    seeds=(3, 4),
)
ROWS = [
    ("rows:1", {"question": "1 + 1?", "answer": "One and one. #### 2"}),
    ("rows:2", {"question": "2 + 2?", "answer": "#### 4"}),
]


def test_rows_become_prompts_with_references() -> None:
    first, second = make_prompts(MATHS, ROWS)
    assert (first.prompt, first.references) == ("1 + 1?\nAnswer:", ("2",))
    assert (second.source, second.references) == ("rows:2", ("4",))
    task = Task(prompt="{question}", reference="answer", metrics=("f1",))
    (prompt,) = make_prompts(task, [("r", {"question": "Who?", "answer": ["Ann ", "Bob"]})])
    assert prompt.references == ("Ann", "Bob")


def test_the_last_match_counts_and_seeds_are_averaged() -> None:
    calls = []

    def generate(prompts, sampling, seed):
        calls.append((list(prompts), sampling, seed))
        return ["1 and 1 make 2.", "4" if seed == 3 else "none"]

    scores = row_scores(MATHS, make_prompts(MATHS, ROWS), generate)["exact_match"]
    assert scores.tolist() == [1, 0.5]
    assert [seed for *_, seed in calls] == [3, 4]
    assert calls[0][0] == ["1 + 1?\nAnswer:", "2 + 2?\nAnswer:"]


@pytest.mark.parametrize(
    ("completion", "value"), [("Paris\nLondon", 1), ("Paris. London", 1), ("London\nParis", 0)]
)
def test_a_completion_ends_before_the_first_stop_string(completion: str, value: float) -> None:
    task = Task(prompt="?", reference="a", metrics=("exact_match",), stop=(". ", "\n"))
    prompts = make_prompts(task, [("r", {"a": "Paris"})])
    assert row_scores(task, prompts, lambda *_: [completion])["exact_match"].tolist() == [value]


def test_rows_that_do_not_fit_are_named() -> None:
    rows = [*ROWS, ("rows:3", {"query": "?", "answer": "#### 1"}), ("rows:4", {"question": "?"})]
    with pytest.raises(UserError) as error:
        make_prompts(MATHS, rows)
    first, second = error.value.lines
    assert first.startswith("rows:3: has no `question`, which the task names; it has query")
    assert second.startswith("rows:4: has no `answer`")
    empty = Task(prompt="?", reference="a", metrics=("f1",))
    with pytest.raises(UserError, match="r: `a` has no correct answer"):
        make_prompts(empty, [("r", {"a": []})])
    answers = ("r", {"a": {"text": ["b", "c"], "at": [0, 3]}})
    with pytest.raises(UserError, match=r"`a` is an object, expected text.*`a\[text\]`"):
        make_prompts(empty, [answers])
    (prompt,) = make_prompts(Task(prompt="?", reference="a[text]", metrics=("f1",)), [answers])
    assert prompt.references == ("b", "c")
    with pytest.raises(UserError, match="is no template"):
        make_prompts(Task(prompt="{", reference="a", metrics=("f1",)), [("r", {"a": "b"})])


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (MATHS, {"question": "?", "answer": "42"}, "r: `answer` is '42', in which the task's"),
        (MATHS, {"question": "?", "answer": None}, "r: has null as `answer`"),
        (MATHS, {"question": None, "answer": "#### 4"}, "r: has null as `question`"),
        (
            Task(prompt="{a[text]}", reference="a", metrics=("f1",)),
            {"a": ["b"]},
            r"r: has no `a\[text\]`, which the task names; it has a",
        ),
    ],
)
def test_rows_without_a_prompt_or_reference_are_refused(
    task: Task, row: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_prompts(task, [("r", row)])


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="the sources have no row"):
        make_prompts(MATHS, [])


def test_patterns_are_checked_when_the_task_is_loaded(tmp_path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("prompt: '?'\nreference: a\nmetrics: [f1]\nanswer_pattern: '(1'\n")
    with pytest.raises(
        UserError, match=r"answer_pattern: '\(1' is not a regular expression: missing"
    ):
        load(Task, path)


def test_a_group_without_a_match_is_an_empty_answer() -> None:
    task = Task(prompt="?", reference="a", metrics=("f1",), answer_pattern=r"answer: (\d+)|none")
    prompts = make_prompts(task, [("r", {"a": "5"})])
    assert row_scores(task, prompts, lambda *_: ["answer: 5"])["f1"].tolist() == [1]
    assert row_scores(task, prompts, lambda *_: ["none"])["f1"].tolist() == [0]


def test_sampling_is_passed_to_the_generator() -> None:
    task = Task(prompt="?", reference="a", metrics=("f1",), sampling=Sampling(max_new_tokens=5))
    calls = []
    prompts = make_prompts(task, [("r", {"a": "b"})])
    row_scores(task, prompts, lambda *arguments: calls.append(arguments) or ["b"])
    assert calls[0][1].max_new_tokens == 5
