"""Runs whose teacher has another tokenizer than the student."""

import json

import numpy as np
import pytest

import jaxdistill
from jaxdistill.objectives.base import objective_names
from jaxdistill.run import load_config

SPANS = [
    "{type: gold, average: groups}",
    "{type: gold, average: groups, k: 20, max_bound: 0.2}",
    "{type: uld, align: spans, average: groups, k: 20}",
    "{type: alm, debias: 1e-4}",
]
SLOW = {
    "positions": ["{type: uld, average: groups}", "{type: multi_level_ot}"],
    "first tokens": ["{type: projected_kl}", "{type: hybrid_kl, average: groups}"],
    # Alone: beside others it may rise.
    "sinkhorn": ["{type: sinkhorn, k: 8, num_iterations: 20}"],
    "single tokens": ["{type: mined}", "{type: dskd_cma}"],
    "uld, spans, top-k": ["{type: uld, align: spans, average: groups, k: 20}"],
    "gold, top-k": ["{type: gold, k: 20, average: groups}"],
    "alm": ["{type: alm}"],
    "hybrid, top-k": ["{type: hybrid_kl, k: 1}"],
    "projected, all subtokens": ["{type: projected_kl, pieces: 4, temperature: 2.0}"],
    "sinkhorn, by embeddings": ["{type: sinkhorn, k: 8, num_iterations: 20, cost: embeddings}"],
    "sinkhorn, relaxed": ["{type: sinkhorn, k: 8, num_iterations: 20, relaxed: 1.0}"],
}
LEARNT = [
    pytest.param(SPANS, id="spans"),
    *(pytest.param(texts, id=name, marks=pytest.mark.slow) for name, texts in SLOW.items()),
]
"""Objectives that can be trained together, since they align alike."""


def records(workspace):
    return [json.loads(line) for line in (workspace / "run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objectives", LEARNT)
def test_student_learns_from_another_tokenizer(workspace, other_teacher, command, objectives):
    """The loss falls; `tests/train/test_step_oracle.py` has its value and gradient."""
    joined = f"objectives=[{', '.join(objectives)}]"
    options = (f"teacher.model={other_teacher}", "train.steps=12", joined)
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    result = json.loads((workspace / "run/result.json").read_text())["comparison"]
    assert 0 < result["teacher"]["bits_per_byte"] < 20
    lines = [record for record in records(workspace) if "train/loss" in record]
    trained = load_config("run/config.yaml").objectives
    names = objective_names(trained)
    total = sum(one.weight * lines[0][f"train/{n}"] for n, one in zip(names, trained, strict=True))
    np.testing.assert_allclose(lines[0]["train/loss"], total, rtol=1e-5)
    for name in ("loss", *names):
        values = [line[f"train/{name}"] for line in lines]
        assert np.isfinite(values).all(), name
        assert np.mean(values[-3:]) < np.mean(values[:3]), name
    bounded = {
        f"train/{name}_bound"
        for name, text in zip(names, objectives, strict=True)
        if "k: 20" in text or "k: 1}" in text
    }
    assert {name for name in lines[0] if name.endswith("_bound")} == bounded
    assert all(0 < line[name] < 2 for line in lines for name in bounded)
    assert jaxdistill.load(workspace / "run/student").tokenizer.eos_token == "<|im_end|>"


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
        assert "Set `align: spans` and `average` alike where an objective has" in stderr
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
