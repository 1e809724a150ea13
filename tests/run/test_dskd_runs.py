"""Runs of DSKD, which train modules beside the student."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from jaxdistill.run import build, load_config
from jaxdistill.run.check import inspect

DSKD = "objectives=[{type: dskd, weight: 0.5}, {type: cross_entropy, weight: 0.5}]"
CMA = DSKD.replace("dskd", "dskd_cma")


@pytest.fixture
def other_teacher(workspace):
    """Teacher with another tokenizer, another width and an untied LM head."""
    tokenizer = tiny.sentencepiece()
    changes = {"hidden_size": 24, "tie_word_embeddings": False, "eos_token_id": 4}
    vocab_size = len(tokenizer) + 9
    folder = workspace / "other"
    return tiny.model_folder(folder, seed=5, reads=tokenizer, vocab_size=vocab_size, **changes)


def losses(folder, name="train/loss"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def dskd_run(finish_run):
    """A workspace with a finished run of DSKD."""
    return finish_run("config.yaml", DSKD, "train.save_every_steps=4")


def test_continued_run_equals_the_whole_run_and_exports_only_the_student(
    dskd_run, workspace, command
):
    run, whole = workspace / "run", dskd_run / "run"
    shutil.copytree(whole, run)
    for name in ("checkpoints/6", "student"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    code, _, stderr = command("export", "--model", run, "--out", workspace / "early")
    assert code == 0, stderr
    code, stdout, stderr = command("train", "config.yaml", DSKD)
    assert code == 0, stderr
    assert "continues from step 4 of 6" in stdout
    assert losses(run) == losses(whole)

    weights = [load_file(f / "model.safetensors") for f in (run / "student", whole / "student")]
    teacher_weights = load_file(workspace / "teacher/model.safetensors")
    assert set(weights[0]) == set(weights[1]) < set(teacher_weights)
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    assert set(load_file(workspace / "early/model.safetensors")) == set(weights[0])


def test_seed_decides_the_initial_modules(workspace):
    modules = []
    for seed in (1, 1, 2):
        config = load_config("config.yaml", [DSKD, f"seed={seed}"])
        modules.append(jax.tree.leaves(build.initial_modules(config, inspect(config))))
    first, again, other = modules
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dskd_cma_learns_from_another_tokenizer_and_prompt(workspace, other_teacher, command):
    """`test_two_tokenizers.py` trains it beside an objective that aligns the tokens."""
    rows = [json.loads(line) for line in (workspace / "rows.jsonl").read_text().splitlines()]
    rows = [{**row, "teacher_prompt": f"Add. {row['prompt']}"} for row in rows]
    (workspace / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, stderr = command("check", workspace / "config.yaml", DSKD)
    assert code == 2
    assert "dskd needs both models to read the same tokens" in stderr

    options = (f"teacher.model={other_teacher}", CMA, "train.steps=12", "data.length=64")
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    values = losses(workspace / "run")
    assert np.isfinite(values).all()
    assert np.mean(values[-3:]) < np.mean(values[:3])


@pytest.mark.slow
def test_accumulation_and_mesh_do_not_change_a_run(workspace, other_teacher, command):
    values = {}
    for name, more in {
        "whole": [],
        "accumulated": ["train.accumulate=2"],
        "sharded": ["mesh.data=2", "mesh.tensor=2"],
    }.items():
        output, teacher = f"output={workspace / name}", f"teacher.model={other_teacher}"
        options = [output, teacher, CMA, "train.batch_size=8", *more]
        code, _, stderr = command("train", workspace / "config.yaml", *options)
        assert code == 0, stderr
        values[name] = losses(workspace / name)
    np.testing.assert_allclose(values["accumulated"], values["whole"], rtol=1e-4)
    np.testing.assert_allclose(values["sharded"], values["whole"], rtol=1e-4)


def test_dskd_is_refused_without_a_fitting_teacher(workspace, other_teacher, command):
    code, _, stderr = command("check", workspace / "config.yaml", DSKD, "teacher=null")
    assert code == 2
    assert "`dskd` needs the teacher's logits and hidden states, but there is no teacher" in stderr
    code, _, stderr = command(
        "check", workspace / "config.yaml", DSKD, f"teacher.model={other_teacher}"
    )
    assert code == 2
    assert "dskd compares token with token" in stderr
    assert "dskd_cma" in stderr
