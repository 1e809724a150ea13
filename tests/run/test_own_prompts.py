"""Runs whose teacher has prompts of its own, with the student's tokenizer and with another."""

import json

import numpy as np
import pytest
import tiny

from jaxdistill import data, run
from jaxdistill.run.check import inspect, inspect_rows

SHOTS = "1 and 1? It is 2.\n"
QUICK = [
    "train.steps=2",
    "evaluation.every_steps=0",
    "evaluation.samples=0",
    "evaluation.speed=false",
]
WAYS = {
    "forward_kl": "[{type: forward_kl}, {type: cross_entropy, weight: 0.1}]",
    "uld": "[{type: uld}, {type: forward_kl}]",
    "gold": "[{type: gold}]",
    "cross_entropy": "[{type: cross_entropy}]",
}


def write(place, teacher_prompt):
    path = place / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if (asked := teacher_prompt(row["prompt"])) is not None:
            row["teacher_prompt"] = asked
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def taught(place):
    """The folder with rows of which every other has examples for the teacher."""
    numbers = iter(range(100))
    write(place, lambda prompt: SHOTS + prompt if next(numbers) % 2 else None)
    reader = tiny.sentencepiece()
    tiny.model_folder(
        place / "other", seed=5, reads=reader, vocab_size=len(reader) + 9, eos_token_id=4
    )
    return place


def losses(place, name):
    lines = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("name", list(WAYS))
def test_one_tokenizer(taught, command, name):
    options = [*QUICK, f"objectives={WAYS[name]}", "data.length=96"]
    code, said, complained = command("check", taught / "config.yaml", *options)
    assert code == 0, complained
    assert "the teacher has prompts of its own, and answers" in " ".join(said.split())
    code, _, complained = command("train", taught / "config.yaml", *options)
    assert code == 0, complained
    assert np.isfinite(losses(taught, f"train/{name}")).all()


def test_another_tokenizer(taught, command):
    teacher = f"teacher.model={taught / 'other'}"
    options = [*QUICK, teacher, "objectives=[{type: uld}]", "data.length=160"]
    code, _, complained = command("train", taught / "config.yaml", *options)
    assert code == 0, complained
    assert np.isfinite(losses(taught, "train/uld")).all()


def test_a_teacher_asked_alike_teaches_alike(place, command):
    """The same prompt once more changes nothing but the way that places meet."""
    found = []
    for again in (False, True):
        if again:
            write(place, lambda prompt: prompt)
        output = f"output={place / f'run{again}'}"
        options = ["objectives=[{type: forward_kl}]", output]
        code, _, complained = command("train", place / "config.yaml", *options)
        assert code == 0, complained
        text = (place / f"run{again}/metrics.jsonl").read_text()
        said = [json.loads(line) for line in text.splitlines()]
        found.append([line["train/forward_kl"] for line in said if "train/forward_kl" in line])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_a_student_of_its_own_teacher_learns_what_the_examples_say(place, command):
    """The student is the teacher, so all that differs is the prompt."""
    for teacher_prompt, is_apart in ((lambda prompt: prompt, False), (lambda p: SHOTS + p, True)):
        write(place, teacher_prompt)
        options = [
            "student.layers=null",
            "objectives=[{type: forward_kl}]",
            "train.steps=1",
            "data.length=96",
            f"output={place / f'apart{is_apart}'}",
        ]
        code, _, complained = command("train", place / "config.yaml", *options)
        assert code == 0, complained
        line = json.loads((place / f"apart{is_apart}/metrics.jsonl").read_text().splitlines()[1])
        assert (line["train/forward_kl"] > 1e-6) == is_apart


@pytest.mark.parametrize("model", ["teacher", "other"])
def test_it_writes_after_its_own_prompt(taught, command, model):
    options = [
        *QUICK,
        f"teacher.model={taught / model}",
        "objectives=[{type: cross_entropy}]",
        "data.rollout={type: teacher, max_new_tokens: 8, stop: [e]}",
        "data.length=160",
    ]
    code, _, complained = command("train", taught / "config.yaml", *options)
    assert code == 0, complained
    (file,) = (taught / "run").glob("rollout-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(SHOTS in line["prompt"] for line in lines) == 20
    assert not any("e" in line["completion"] for line in lines)


def test_rows_without_prompts_for_the_teacher_are_read_as_ever(place):
    config = run.load_config(place / "config.yaml")
    inspection = inspect(config)
    assert inspect_rows(config, inspection, data.read_split(config.data)).teacher_view is None


def test_exact_tokens_do_not_mix_with_them(taught, command):
    with (taught / "rows.jsonl").open("a") as file:
        file.write('{"prompt_tokens": [5], "completion_tokens": [6]}\n')
    code, _, complained = command("check", taught / "config.yaml", "data.length=96")
    assert code == 2
    assert "rows.jsonl:41: exact tokens" in complained
    assert "`teacher_prompt`" in complained
