"""Runs that compare inner layers: calibrated, continued, exported, between any two models."""

import json
import shutil

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from jaxdistill.run.features import collect_features

JOINT = (
    "objectives=[{type: hidden, layers: searched, bridge: BRIDGE}, {type: attention},"
    " {type: forward_kl}, {type: cross_entropy}]"
)


@pytest.fixture
def wide_teacher(workspace):
    """Teacher of the same tokenizer, wider, deeper, and with other heads."""
    changes = {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 3}
    return tiny.model_folder(workspace / "wide", seed=5, num_key_value_heads=1, **changes)


def losses(folder, name="train/loss"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("bridge", ["learned", "pca", "selected"])
def test_a_calibrated_run_is_continued_and_exports_only_the_student(
    workspace, wide_teacher, command, bridge
):
    options = [JOINT.replace("BRIDGE", bridge), "teacher.model=wide", "student.layers=2"]
    options.append("evaluation.similarity=true")
    if bridge == "pca":
        options.append("train.balance=grad_mag")
    code, stdout, stderr = command("check", "config.yaml", *options)
    assert code == 0, stderr
    assert "to be searched" in stdout
    code, stdout, stderr = command("train", "config.yaml", *options, "train.save_every_steps=4")
    assert code == 0, stderr
    assert "hidden states 1/" in stdout
    run, whole = workspace / "run", workspace / "whole"
    shutil.copytree(run, whole)
    for name in ("checkpoints/6", "student"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    code, _, stderr = command("export", "--model", run, "--out", workspace / "early")
    assert code == 0, stderr
    code, stdout, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert "continues from step 4 of 6" in stdout
    assert losses(run) == losses(whole)
    assert bool(losses(run, "train/hidden_weight")) == (bridge == "pca")
    kl = losses(run, "train/forward_kl")  # balanced weights change the scale of the loss
    assert kl[-1] < kl[0]
    weights = [load_file(f / "model.safetensors") for f in (run / "student", whole / "student")]
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    assert set(weights[0]) < set(load_file(workspace / "teacher/model.safetensors"))
    assert (run / "calibration.safetensors").stat().st_size > 0
    page = (whole / "report/index.html").read_text()
    assert "share of variance that a linear map explains" in page
    assert "layers, hidden" in page
    assert "linear CKA" in page
    damaged = (run / "calibration.safetensors").read_bytes().replace(b"[[1, ", b"[[2, ", 1)
    assert damaged != (whole / "calibration.safetensors").read_bytes()
    (run / "calibration.safetensors").write_bytes(damaged)  # it is made again
    (run / "result.json").unlink()
    shutil.rmtree(run / "student")
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert (run / "calibration.safetensors").read_bytes() == (
        whole / "calibration.safetensors"
    ).read_bytes()


def test_a_teacher_of_another_tokenizer_is_compared_in_every_term(
    workspace, other_teacher, command, monkeypatch
):
    objectives = "objectives=[{type: hidden}, {type: attention}, {type: uld, align: spans}]"
    rows = (workspace / "rows.jsonl").read_text().splitlines()[:3]
    # One token of the student, but so many of the teacher that its sequence has no room for more.
    unpaired = json.dumps({"prompt": "<|endoftext|>" * 6, "completion": "It is 0."})
    (workspace / "heldout.jsonl").write_text("\n".join([*rows, unpaired]) + "\n")
    examples = []

    def record(*arguments):
        examples.extend(arguments[-1])
        return collect_features(*arguments)

    monkeypatch.setattr("jaxdistill.run.finish.collect_features", record)
    options = ["data.heldout_sources=[heldout.jsonl]", "evaluation.similarity=true"]
    teacher = f"teacher.model={other_teacher}"
    code, _, stderr = command("train", "config.yaml", objectives, teacher, *options)
    assert code == 0, stderr
    assert [one.teacher_example is None for one in examples] == [False] * 3
    assert "linear CKA" in (workspace / "run/report/index.html").read_text()
    for name in ("hidden", "attention", "uld"):
        assert min(losses(workspace / "run", f"train/{name}")) > 0
    values = losses(workspace / "run")
    assert values[-1] < values[0]
    objectives = "objectives=[{type: hidden}, {type: uld}]"
    code, _, stderr = command("check", "config.yaml", objectives, teacher)
    assert code == 2
    assert "`hidden` compares `spans` (last_token); `uld` compares `positions`" in stderr
    assert "Set `align: spans` where an objective has that field." in stderr


def test_measurements_need_rows_and_a_teacher(workspace, command):
    names = ("similarity=true", "every_steps=2")
    options = ["data.heldout=0", *(f"evaluation.{name}" for name in names)]
    code, _, stderr = command("check", "config.yaml", *options)
    assert code == 2
    for name in ("similarity", "every_steps"):
        assert f"evaluation.{name}: no row is held out to measure" in stderr
    alone = ["teacher=null", "objectives=[{type: cross_entropy}]", "evaluation.similarity=true"]
    code, _, stderr = command("check", "config.yaml", *alone)
    assert code == 2
    assert "evaluation.similarity: there is no teacher to compare" in stderr


MISTAKES = {
    "{type: hidden, layers: [[1, 9]]}": "objectives[0]: layers: [1, 9] names layer 9 of the "
    "teacher, which has layers 0 to 3",
    "{type: attention, layers: [[0, 1]]}": "names layer 0 of the student, which has layers 1 to 1",
    "{type: hidden, layers: [[1, 1], [1]]}": "objectives[0].layers[1][1]: missing",
    "{type: hidden, layers: []}": "a list of at least 1; got []",
    "{type: hidden, layers: {every: 4}}": "every 4 layers there is none: the student has 1",
    "{type: hidden, layers: [[1, 1], [1, 1]]}": "names a pair twice",
    "{type: hidden, layers: deepest}": "objectives[0].layers: input should be 'uniform', 'last', "
    "'first_last' or 'searched' or a mapping or a list; got 'deepest'",
    "{type: attention, heads: relations, relation_heads: 7}": "relation_heads: 7 does not divide "
    "the queries of the student (16 wide), the keys of the student (8 wide), the queries of the "
    "teacher (16 wide), the keys of the teacher (8 wide). Take a divisor of 8.",
    "{type: hidden, rank: 4}": "objectives[0].rank: 4 has no effect here: the field belongs to "
    "`bridge: pca`",
    "{type: hidden, bridge: pca, learning_rate_scale: 0.1}": "learning_rate_scale: 0.1 has no",
    "{type: attention, relation_heads: 2}": "relation_heads: 2 has no effect here",
    "{type: hidden, layers: last, calibration_examples: 9}": "calibration_examples: 9 has no",
    "{type: hidden, layers: [[1, 1]], num_layers: 2}": "num_layers: 2 has no effect here",
    "{type: hidden, layers: [[1, 2, 3]]}": "layers[0]: holds 3; expected at most 2",
    "{type: hidden, layers: {every_n: 2}}": "there is no such field. Did you mean `every`?",
    "{type: hidden, layers: searched, calibration_examples: 1}": "objectives: hidden: the "
    "calibration reads 1 training example(s), which have 7 compared position(s); expected at "
    "least 32. Raise `calibration_examples`.",
    "{type: hidden, bridge: none}": "bridge=none: the student is 16 wide and the teacher 24",
    "{type: hidden, bridge: rotation}": "bridge: `rotation` is not one of learned, none, selected",
}


@pytest.mark.parametrize("objective", MISTAKES)
def test_a_mistake_is_one_line_before_weights_load(
    workspace, wide_teacher, command, objective, monkeypatch
):
    is_wide = "none" in objective
    options = [f"objectives=[{objective}]", "teacher.model=wide" if is_wide else "seed=0"]

    def fail(*_, **__):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("jaxdistill.hub.load_params", fail)
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 2
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert MISTAKES[objective] in stderr
