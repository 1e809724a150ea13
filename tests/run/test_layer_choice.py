"""Runs whose student keeps the most important layers of its source."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny

from jaxdistill import data, hub
from jaxdistill.run import load_config
from jaxdistill.run.check import inspect
from jaxdistill.run.evaluate import open_model
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import RunContext
from jaxdistill.run.layer_choice import choose_layers, most_important_layers, read_layers

TWO = "student.layers={count: 2, by: importance, calibration_examples: 12}"
GEMMA = {
    "model_type": "gemma3_text",
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def silence(folder, layer: int) -> None:
    """Make one layer of a model the identity."""
    model = hub.load(folder)
    layers = {part: dict(leaves) for part, leaves in model.params["layers"].items()}
    for part, leaf in (("attention", "output"), ("mlp", "down")):
        layers[part][leaf] = layers[part][leaf].at[layer].set(0)
    hub.save(replace(model, params={**model.params, "layers": layers}), folder)


def losses(run) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_the_layer_that_adds_nothing_is_dropped_and_stays_so(workspace, command, monkeypatch):
    """In every family, layers may differ in kind; the exported student has those that stay.

    A run that is stopped goes on with them to the same losses. Another choice is refused.
    """
    tiny.model_folder(workspace / "teacher", num_hidden_layers=3, **GEMMA)
    silence(workspace / "teacher", 1)
    assert record_of(workspace).layers == (0, 2)

    tiny.model_folder(workspace / "teacher", num_hidden_layers=3, **GEMMA)
    silence(workspace / "teacher", 0)
    options = (TWO, "train.save_every_steps=4")
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert read_layers(RunFolder(workspace / "run")).layers == (1, 2)
    result = json.loads((workspace / "run" / "result.json").read_text())
    assert result["facts"]["layers"] == "2 of 3: 1, 2"
    written = json.loads((workspace / "run" / "student" / "config.json").read_text())
    assert written["layer_types"] == GEMMA["layer_types"][1:]
    # Without the silent layer nothing is missing: the student starts as its teacher.
    assert result["comparison"]["student before"]["forward_kl"] == pytest.approx(0, abs=1e-5)

    run, whole = workspace / "run", workspace / "whole"
    shutil.copytree(run, whole)
    written = [(run / name).stat().st_mtime_ns for name in ("layers.json", "checkpoints/4")]
    assert written == sorted(written)
    for name in ("checkpoints/6", "student"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    record = read_layers(RunFolder(run))
    assert open_model(str(run)).language_model.widths.layers == 2

    choice = sys.modules["jaxdistill.run.layer_choice"]
    with monkeypatch.context() as patch:
        patch.setattr(choice, "layer_importance", None)
        code, stdout, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert "continues from step 4 of 6" in stdout
    assert read_layers(RunFolder(run)) == record
    assert losses(run) == losses(whole)

    one = "student.layers={count: 1, by: importance, calibration_examples: 12}"
    code, _, stderr = command("train", "config.yaml", one)
    assert code == 2
    assert "was written with student.layers.count = 2, not 1" in stderr
    assert read_layers(RunFolder(run)) == record

    (run / "layers.json").write_text("{")
    (run / "student").rename(workspace / "elsewhere")
    code, _, stderr = command("eval", "--model", run, "--data", workspace / "rows.jsonl")
    assert code == 2
    assert "layers.json: missing or damaged" in stderr


def record_of(workspace, *options: str):
    """Choose layers as a run does, without training."""
    config = load_config(workspace / "config.yaml", [TWO, *options])
    inspection = inspect(config)
    prepared = data.prepare(config.data, inspection.tokenizer, teacher_view=inspection.teacher_view)
    return choose_layers(RunContext(config, RunFolder(config.output), inspection, prepared), None)


def test_the_choice_ignores_mesh_and_batch_size(workspace):
    one = record_of(workspace, "mesh.data=1", "mesh.tensor=4", "evaluation.batch_size=1")
    other = record_of(workspace, "mesh.data=2", "mesh.tensor=2", "evaluation.batch_size=4")
    assert one.layers == other.layers
    np.testing.assert_allclose(one.importance, other.importance, rtol=1e-5)


def test_the_source_of_the_student_decides_with_two_tokenizers(workspace, other_teacher):
    silence(workspace / "teacher", 1)
    record = record_of(workspace, f"teacher.model={other_teacher}", "objectives=[{type: uld}]")
    assert record.layers == (0, 2)


def test_check_says_the_number_of_layers(workspace, command):
    code, stdout, stderr = command("check", workspace / "config.yaml", TWO)
    assert code == 0, stderr
    words = " ".join(stdout.split())
    assert "layers 2 of 3, to be chosen by importance over the training examples" in words
    spaced = "student.layers={count: 2, by: spacing}"
    assert "2 of 3: 0, 2" in command("check", workspace / "config.yaml", spaced)[1]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "{count: 9, by: importance}",
            "student.layers: 9 layers are more than the 3 that the model has",
        ),
        ("{count: 2, by: importanse}", "`importanse` is not one of importance, spacing. Did you"),
        ("{count: 0, by: spacing}", "student.layers.count: input should be greater than 0"),
        ("{count: 2}", "student.layers.by: missing"),
        ("many", "student.layers: input should be a valid integer or a list or a mapping; got"),
    ],
)
def test_mistakes_are_named(workspace, command, layers, message):
    code, _, stderr = command("check", workspace / "config.yaml", f"student.layers={layers}")
    assert code == 2
    assert message in stderr


def test_of_equal_layers_the_earlier_is_kept():
    assert most_important_layers(np.array([0.1, 0.3, 0.1, 0.2]), 3) == (0, 1, 3)
