"""float16 is checked by activations: of a teacher before training, of a student at export."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxdistill
from jaxdistill.errors import UserError

EXPORT = "student.export_dtype=float16"


def make_overflowing(model: Path, folder: Path) -> Path:
    """Copy a model so that its feed-forward networks exceed 65,504, and its weights do not."""
    shutil.copytree(model, folder)
    scales = {"up_proj": 3e4, "gate_proj": 30.0, "down_proj": 1e-5}
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        weights[name] *= np.float32(scales.get(name.split(".")[-2], 1))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert max(np.abs(weight).max() for weight in weights.values()) < 65_504
    return folder


@pytest.fixture
def overflowing(workspace: Path) -> Path:
    return make_overflowing(workspace / "teacher", workspace / "overflowing")


def test_the_fixture_overflows_in_pytorch_too(overflowing: Path) -> None:
    tokens = torch.arange(4, 20)[None]
    is_finite = {}
    for dtype in (torch.float16, torch.bfloat16):
        model = transformers.AutoModelForCausalLM.from_pretrained(overflowing, dtype=dtype)
        is_finite[dtype] = bool(model(tokens).logits.isfinite().all())
    assert is_finite == {torch.float16: False, torch.bfloat16: True}


def test_overflowing_teacher_is_named_before_training(workspace, command, overflowing):
    overrides = ("teacher.model=overflowing", "teacher.dtype=float16")
    code, _, stderr = command("train", "config.yaml", *overrides)
    assert code == 2
    assert "teacher.dtype: overflowing overflows float16" in stderr
    assert "hidden states on rows.jsonl:" in stderr
    assert "Set `teacher.dtype=bfloat16` or `float32`" in stderr
    assert not [*(workspace / "run" / "checkpoints").glob("*")]


def test_overflowing_teacher_of_another_tokenizer_is_named(workspace, command, other_teacher):
    make_overflowing(other_teacher, workspace / "overflowing")
    overrides = ("teacher.model=overflowing", "teacher.dtype=float16", "objectives=[{type: alm}]")
    code, _, stderr = command("train", "config.yaml", *overrides)
    assert code == 2
    assert "teacher.dtype: overflowing overflows float16" in stderr


def test_overflowing_student_is_named_before_training(workspace, command, overflowing):
    code, _, stderr = command("train", "config.yaml", "student.model=overflowing", EXPORT)
    assert code == 2
    assert "student.export_dtype: the student overflows float16" in stderr
    assert "Set `student.export_dtype=bfloat16` or `float32`" in stderr
    assert not (workspace / "run" / "before.json").exists()
    assert not (workspace / "run" / "student").exists()


@pytest.mark.slow
def test_student_that_overflows_after_training_keeps_its_checkpoint(
    workspace, command, overflowing
):
    train = ("train", "config.yaml", "student.model=overflowing")
    assert command(*train)[0] == 0
    before = (workspace / "run" / "student" / "model.safetensors").read_bytes()
    code, _, stderr = command(*train, EXPORT)  # trained already: only the export is left
    assert code == 2
    assert "student.export_dtype: the student overflows float16" in stderr
    assert (workspace / "run" / "student" / "model.safetensors").read_bytes() == before
    code, stdout, stderr = command(*train, "student.export_dtype=bfloat16")
    assert code == 0, stderr
    assert "continues from step 6 of 6" in stdout
    model = jaxdistill.load(workspace / "run" / "student", dtype=None)
    assert model.params["embedding"].dtype == "bfloat16"


@pytest.mark.slow
def test_float16_is_exported_where_it_holds_the_activations(workspace, command):
    code, _, stderr = command("train", "config.yaml", EXPORT, "teacher.dtype=float16")
    assert code == 0, stderr
    model = jaxdistill.load(workspace / "run" / "student", dtype=None)
    assert model.params["embedding"].dtype == "float16"


def test_damaged_weights_are_not_blamed_on_the_dtype(workspace: Path) -> None:
    model = jaxdistill.load(workspace / "teacher")
    damaged = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    model.pretrained.params.update(damaged)
    model.save(workspace / "damaged", dtype="float16")


def test_export_names_an_overflowing_model(workspace, command, overflowing):
    out = workspace / "out"
    export = ("export", "--model", overflowing, "--out", out, "--dtype")
    code, _, stderr = command(*export, "float16")
    assert code == 2
    assert "dtype: the model overflows float16" in stderr
    assert not out.exists()
    with pytest.raises(UserError, match="Use bfloat16 or float32"):
        jaxdistill.load(overflowing).save(out, dtype="float16")
    assert command(*export, "bfloat16")[0] == 0
