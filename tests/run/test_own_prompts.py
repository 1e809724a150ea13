"""Runs whose rows have a `teacher_prompt`, with one tokenizer and with two."""

import json

import numpy as np
import pytest

from jaxdistill import data, run
from jaxdistill.run.check import inspect, inspect_rows

EXAMPLE = "1 and 1? It is 2.\n"
WITHOUT_EVALUATION = ["data.length=96", "data.heldout=0"]
OBJECTIVES = {
    "forward_kl": "[{type: forward_kl}, {type: uld}, {type: cross_entropy, weight: 0.1}]",
    "gold": "[{type: gold}]",
}
"""By alignment: by positions, and by spans."""


def add_teacher_prompts(workspace, teacher_prompt):
    path = workspace / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if (prompt := teacher_prompt(row["prompt"])) is not None:
            row["teacher_prompt"] = prompt
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def prompted_workspace(workspace):
    """The workspace, with a `teacher_prompt` that has an example in every other row."""
    numbers = iter(range(100))
    add_teacher_prompts(workspace, lambda prompt: EXAMPLE + prompt if next(numbers) % 2 else None)
    return workspace


def losses(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("name", ["forward_kl", pytest.param("gold", marks=pytest.mark.slow)])
def test_teacher_prompts_separate_a_student_from_itself_as_teacher(
    prompted_workspace, command, name
):
    """The KL is 0 without prompts of the teacher, and with equal ones, as below."""
    options = [*WITHOUT_EVALUATION, "student.layers=null", f"objectives={OBJECTIVES[name]}"]
    code, stdout, stderr = command("check", "config.yaml", *options)
    assert code == 0, stderr
    assert "the teacher has its own prompts; completions are" in " ".join(stdout.split())
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    for metric in (name, "loss"):
        values = losses(prompted_workspace / "run", f"train/{metric}")
        assert len(values) == 6
        assert np.isfinite(values).all()
        assert values[0] > 1e-6


def test_teacher_prompts_with_another_tokenizer(prompted_workspace, other_teacher, command):
    """The teacher's held-out text is evaluated, too."""
    teacher = f"teacher.model={other_teacher}"
    options = [teacher, "objectives=[{type: uld}]", "data.length=96"]
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert np.isfinite(losses(prompted_workspace / "run", "train/uld")).all()


def test_teacher_prompt_equal_to_the_prompt_changes_no_loss(finished_run, workspace, command):
    """It only changes how positions are aligned."""
    add_teacher_prompts(workspace, lambda prompt: prompt)
    code, _, stderr = command("train", "config.yaml")
    assert code == 0, stderr
    values, expected = (
        losses(folder / "run", "train/forward_kl") for folder in (workspace, finished_run)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def train_on_completions(workspace, command, model, template):
    """Let the teacher complete its own prompts, train on them, and return the options."""
    options = [
        *WITHOUT_EVALUATION,
        f"data.prompt_template={template}",
        f"teacher.model={workspace / model}",
        "objectives=[{type: cross_entropy}]",
        "data.rollout={type: teacher, max_new_tokens: 8, batch_size: 16, stop: [e]}",
    ]
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert np.isfinite(losses(workspace / "run", "train/cross_entropy")).all()
    (rollout_file,) = (workspace / "run").glob("rollout-*.jsonl")
    lines = [json.loads(line) for line in rollout_file.read_text().splitlines()]
    assert len(lines) == 40
    assert sum(EXAMPLE.strip() in json.dumps(line["prompt"]) for line in lines) == 20
    assert not any("e" in line["completion"] for line in lines)
    return options


def test_teacher_completes_its_own_plain_prompt(prompted_workspace, command):
    train_on_completions(prompted_workspace, command, "teacher", "plain")


def test_teacher_with_another_tokenizer_completes_its_own_chat(
    prompted_workspace, other_teacher, command
):
    options = train_on_completions(prompted_workspace, command, "other", "chat")
    # The run is finished; then the teacher's tokenizer changes.
    template = other_teacher / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 2
    assert "the teacher's tokenizer has changed" in stderr


def test_rows_without_teacher_prompts_need_no_teacher_view(workspace):
    config = run.load_config(workspace / "config.yaml")
    inspection = inspect(config)
    assert inspect_rows(config, inspection, data.read_split(config.data)).teacher_view is None


def test_exact_tokens_are_refused_beside_teacher_prompts(prompted_workspace, command):
    with (prompted_workspace / "rows.jsonl").open("a") as file:
        file.write('{"prompt_tokens": [5], "completion_tokens": [6]}\n')
    code, _, stderr = command("check", prompted_workspace / "config.yaml", "data.length=96")
    assert code == 2
    assert "rows.jsonl:41: exact tokens" in stderr
    assert "`teacher_prompt`" in stderr
