"""A task asks every row, and scores what is left of an answer after its rules."""

import pytest

from jaxdistill.config import load
from jaxdistill.errors import UserError
from jaxdistill.evals import Task, make_prompts, mean_scores
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


def test_rows_become_questions() -> None:
    first, second = make_prompts(MATHS, ROWS)
    assert (first.prompt, first.references) == ("1 + 1?\nAnswer:", ("2",))
    assert (second.source, second.references) == ("rows:2", ("4",))
    several = Task(prompt="{question}", reference="answer", metrics=("f1",))
    (found,) = make_prompts(several, [("r", {"question": "Who?", "answer": ["Ann ", "Bob"]})])
    assert found.references == ("Ann", "Bob")


def test_the_last_match_counts_and_seeds_are_averaged() -> None:
    asked = []

    def answer(prompts, sampling, seed):
        asked.append((list(prompts), sampling, seed))
        return ["1 and 1 make 2.", "4" if seed == 3 else "none"]

    found = mean_scores(MATHS, make_prompts(MATHS, ROWS), answer)["exact_match"]
    assert found.value == 0.75
    assert 0 <= found.low < 0.75 < found.high <= 1
    assert [seed for *_, seed in asked] == [3, 4]
    assert asked[0][0] == ["1 + 1?\nAnswer:", "2 + 2?\nAnswer:"]


@pytest.mark.parametrize(
    ("said", "value"), [("Paris\nLondon", 1), ("Paris. London", 1), ("London\nParis", 0)]
)
def test_an_answer_ends_before_the_first_stop(said: str, value: float) -> None:
    task = Task(prompt="?", reference="a", metrics=("exact_match",), stop=(". ", "\n"))
    asked = make_prompts(task, [("r", {"a": "Paris"})])
    assert mean_scores(task, asked, lambda *_: [said])["exact_match"].value == value


def test_rows_that_do_not_fit_are_named() -> None:
    rows = [*ROWS, ("rows:3", {"query": "?", "answer": "#### 1"}), ("rows:4", {"question": "?"})]
    with pytest.raises(UserError) as caught:
        make_prompts(MATHS, rows)
    first, second = caught.value.lines
    assert first.startswith("rows:3: has no `question`, which the task speaks of; it has query")
    assert second.startswith("rows:4: has no `answer`")
    empty = Task(prompt="?", reference="a", metrics=("f1",))
    with pytest.raises(UserError, match="r: `a` holds no right answer"):
        make_prompts(empty, [("r", {"a": []})])
    answers = ("r", {"a": {"text": ["b", "c"], "at": [0, 3]}})
    with pytest.raises(UserError, match=r"`a` is an object, and no text.*`a\[text\]`"):
        make_prompts(empty, [answers])
    (asked,) = make_prompts(Task(prompt="?", reference="a[text]", metrics=("f1",)), [answers])
    assert asked.references == ("b", "c")
    with pytest.raises(UserError, match="is no template"):
        make_prompts(Task(prompt="{", reference="a", metrics=("f1",)), [("r", {"a": "b"})])


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        (MATHS, {"question": "?", "answer": "42"}, "r: `answer` is '42', in which the task's"),
        (MATHS, {"question": "?", "answer": None}, "r: has no `answer`"),
        (MATHS, {"question": None, "answer": "#### 4"}, "r: has no `question`"),
        (
            Task(prompt="{a[text]}", reference="a", metrics=("f1",)),
            {"a": ["b"]},
            r"r: has no `a\[text\]`, which the task speaks of; it has a",
        ),
    ],
)
def test_what_would_count_as_right_by_chance_is_refused(task: Task, row: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_prompts(task, [("r", row)])


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="there is no row to ask"):
        make_prompts(MATHS, [])


def test_patterns_are_checked_before_anything_is_asked(tmp_path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("prompt: '?'\nreference: a\nmetrics: [f1]\nanswer_pattern: '(1'\n")
    with pytest.raises(UserError, match=r"answer_pattern: '\(1' is no regular expression: missing"):
        load(Task, path)


def test_a_group_that_took_no_part_is_nothing() -> None:
    task = Task(prompt="?", reference="a", metrics=("f1",), answer_pattern=r"answer: (\d+)|none")
    asked = make_prompts(task, [("r", {"a": "5"})])
    assert mean_scores(task, asked, lambda *_: ["answer: 5"])["f1"].value == 1
    assert mean_scores(task, asked, lambda *_: ["none"])["f1"].value == 0


def test_sampling_is_handed_on() -> None:
    task = Task(prompt="?", reference="a", metrics=("f1",), sampling=Sampling(max_new_tokens=5))
    heard = []
    mean_scores(task, make_prompts(task, [("r", {"a": "b"})]), lambda *a: heard.append(a) or ["b"])
    assert heard[0][1].max_new_tokens == 5
