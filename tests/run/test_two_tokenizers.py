"""Runs whose teacher has another tokenizer than the student."""

import json

import numpy as np
import pytest

import jaxdistill

NO_REPORT = ["evaluation.every_steps=0", "evaluation.samples=0", "evaluation.speed=false"]
OBJECTIVES = {
    "uld": "{type: uld}",
    "gold": "{type: gold}",
    "gold, within a bound": "{type: gold, k: 20, max_bound: 0.2}",
    "alm, debiased": "{type: alm, debias: 1e-4}",
    "hybrid": "{type: hybrid_kl}",
    "projected": "{type: projected_kl}",
    "mined": "{type: mined}",
    "whole completions": "{type: multi_level_ot}",
    "sinkhorn": "{type: sinkhorn, k: 8, num_iterations: 20}",
}
VARIANTS = {
    "uld, spans, top-k": "{type: uld, align: spans, average: groups, k: 20}",
    "gold, top-k": "{type: gold, k: 20, average: groups}",
    "alm": "{type: alm}",
    "hybrid, top-k": "{type: hybrid_kl, k: 1}",
    "projected, all subtokens": "{type: projected_kl, pieces: 4, temperature: 2.0}",
    "sinkhorn, by embeddings": "{type: sinkhorn, k: 8, num_iterations: 20, cost: embeddings}",
    "sinkhorn, relaxed": "{type: sinkhorn, k: 8, num_iterations: 20, relaxed: 1.0}",
}
ALL = [
    *(pytest.param(text, id=name) for name, text in OBJECTIVES.items()),
    *(pytest.param(text, id=name, marks=pytest.mark.slow) for name, text in VARIANTS.items()),
]


def records(workspace):
    return [json.loads(line) for line in (workspace / "run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ALL)
def test_student_learns_from_another_tokenizer(workspace, other_teacher, command, objective):
    options = [f"teacher.model={other_teacher}", "train.steps=12", *NO_REPORT]
    code, _, stderr = command(
        "train", workspace / "config.yaml", *options, f"objectives=[{objective}]"
    )
    assert code == 0, stderr
    result = json.loads((workspace / "run/result.json").read_text())["comparison"]
    assert 0 < result["teacher"]["bits_per_byte"] < 20
    losses = [line["train/loss"] for line in records(workspace) if "train/loss" in line]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    bounds = [
        value
        for record in records(workspace)
        for name, value in record.items()
        if name.endswith("_bound")
    ]
    assert bool(bounds) == ("k: " in objective and "sinkhorn" not in objective)
    assert all(0 < bound < 2 for bound in bounds)
    assert jaxdistill.load(workspace / "run/student").tokenizer.eos_token == "<|im_end|>"


def test_two_tokenizers_with_cross_entropy(workspace, other_teacher, command):
    objectives = "objectives=[{type: uld, align: spans}, {type: cross_entropy, weight: 0.5}]"
    code, _, stderr = command(
        "train", workspace / "config.yaml", f"teacher.model={other_teacher}", objectives
    )
    assert code == 0, stderr
    first = next(line for line in records(workspace) if "train/loss" in line)
    total = first["train/uld"] + 0.5 * first["train/cross_entropy"]
    np.testing.assert_allclose(first["train/loss"], total, rtol=1e-5)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_teacher_with_another_tokenizer_writes_the_rollout(
    workspace, other_teacher, command, template
):
    options = [
        f"teacher.model={other_teacher}",
        "objectives=[{type: cross_entropy}]",
        "data.rollout={type: teacher, max_new_tokens: 8}",
        f"data.prompt_template={template}",
    ]
    code, _, stderr = command("train", workspace / "config.yaml", *options)
    assert code == 0, stderr
    (rollout_file,) = (workspace / "run").glob("rollout-*.jsonl")
    assert len(rollout_file.read_text().splitlines()) == 40


def test_objective_for_one_tokenizer_is_refused_and_others_are_named(
    workspace, other_teacher, command
):
    code, _, stderr = command("check", workspace / "config.yaml", f"teacher.model={other_teacher}")
    assert code == 2
    assert "its tokenizer is not the student's" in stderr
    for name in ("alm", "gold", "uld"):
        assert name in stderr
    for second in ("{type: alm}", "{type: uld, align: spans, average: groups}"):
        both = f"objectives=[{{type: uld}}, {second}]"
        code, _, stderr = command(
            "check", workspace / "config.yaml", f"teacher.model={other_teacher}", both
        )
        assert code == 2
        assert "`positions` (last_token) averaged over rows" in stderr
        assert "`spans` (last_token) averaged over groups" in stderr
        assert "Set `align` and `average` alike" in stderr
    both = "objectives=[{type: alm}, {type: projected_kl}]"
    teacher = f"teacher.model={other_teacher}"
    code, _, stderr = command("check", workspace / "config.yaml", teacher, both)
    assert code == 2
    assert "The compared tokens of a span cannot be set" in stderr


def test_row_without_a_compared_token_is_counted_or_refused(workspace, other_teacher, command):
    rows = (workspace / "rows.jsonl").read_text()
    (workspace / "rows.jsonl").write_text(
        rows + json.dumps({"prompt": "Why?", "completion": ""}) + "\n"
    )
    options = [f"teacher.model={other_teacher}", "objectives=[{type: uld}]", "data.heldout=0"]
    code, stdout, stderr = command("check", workspace / "config.yaml", *options)
    assert code == 0, stderr
    assert "1 rows with nothing to compare" in stdout
    code, _, stderr = command("check", workspace / "config.yaml", *options, "data.unpaired=refuse")
    assert code == 2
    assert "rows.jsonl:41: no part of its completion is read by both tokenizers" in stderr


@pytest.mark.slow
def test_accumulation_and_mesh_do_not_change_two_steps(workspace, other_teacher, command):
    """Later steps may differ: where a gradient is nearly 0, Adam makes a full step of rounding."""
    options = [
        f"teacher.model={other_teacher}",
        "objectives=[{type: uld, align: spans}]",
        *NO_REPORT,
    ]
    values = {}
    for name, more in {
        "whole": ["train.batch_size=8"],
        "accumulated": ["train.batch_size=8", "train.accumulate=2"],
        "sharded": ["train.batch_size=8", "mesh.data=2", "mesh.tensor=2"],
    }.items():
        output = f"output={workspace / name}"
        code, _, stderr = command("train", workspace / "config.yaml", *options, *more, output)
        assert code == 0, stderr
        text = (workspace / name / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        first, second, *_ = (line for line in lines if "train/uld" in line)
        values[name] = [first[f"train/{metric}"] for metric in ("uld", "grad_norm", "param_norm")]
        values[name].append(second["train/uld"])
    np.testing.assert_allclose(values["accumulated"], values["whole"], rtol=1e-6)
    np.testing.assert_allclose(values["sharded"], values["whole"], rtol=1e-6)


def test_changed_teacher_tokenizer_is_refused(workspace, other_teacher, command):
    options = [f"teacher.model={other_teacher}", "objectives=[{type: alm}]"]
    assert command("train", workspace / "config.yaml", *options)[0] == 0
    template = other_teacher / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    code, _, stderr = command("train", workspace / "config.yaml", *options)
    assert code == 2
    assert "the teacher's tokenizer has changed" in stderr
