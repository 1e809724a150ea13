"""Runs that train modules beside the student: whole, in parts, and refused where they must be."""

import json
import shutil

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

DSKD = "objectives=[{type: dskd, weight: 0.5}, {type: cross_entropy, weight: 0.5}]"
CMA = DSKD.replace("dskd", "dskd_cma")
QUICK = ["evaluation.every_steps=0", "evaluation.samples=0", "evaluation.speed=false"]


@pytest.fixture
def apart(place):
    """The folder with a second teacher, of other words, another width and an untied head."""
    reader = tiny.sentencepiece()
    changes = {"hidden_size": 24, "tie_word_embeddings": False, "eos_token_id": 4}
    tiny.model_folder(place / "other", seed=5, reads=reader, vocab_size=len(reader) + 9, **changes)
    return place


def losses(folder, name="train/loss"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_a_run_that_is_continued_is_the_whole_and_exports_its_student_alone(place, command):
    options = [DSKD, *QUICK, "train.keep_checkpoints=3"]
    code, _, complained = command("train", place / "config.yaml", *options)
    assert code == 0, complained
    run, whole = place / "run", place / "whole"
    shutil.copytree(run, whole)

    for name in ("checkpoints/6", "checkpoints/4", "student"):
        shutil.rmtree(run / name)
    (run / "result.json").unlink()
    code, _, complained = command("export", "--model", run, "--out", place / "half")
    assert code == 0, complained
    code, _, complained = command("train", place / "config.yaml", *options)
    assert code == 0, complained
    assert losses(run) == losses(whole)

    weights = [load_file(f / "model.safetensors") for f in (run / "student", whole / "student")]
    plain = load_file(place / "teacher/model.safetensors")
    assert set(weights[0]) == set(weights[1]) < set(plain)
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    assert set(load_file(place / "half/model.safetensors")) == set(weights[0])


def test_the_seed_decides_what_modules_begin_with(place, command):
    first = []
    for seed in (1, 1, 2):
        output = f"output={place / f'run{len(first)}'}"
        code, _, complained = command(
            "train", place / "config.yaml", DSKD, *QUICK, f"seed={seed}", "train.steps=1", output
        )
        assert code == 0, complained
        first += losses(place / f"run{len(first)}", "train/dskd_projected_cross_entropy")
    assert first[0] == first[1] != first[2]


@pytest.mark.parametrize("others", ["", ", {type: uld, weight: 0.5}"])
def test_two_tokenizers(apart, command, others):
    objectives = CMA.replace("]", f"{others}]")
    teacher = f"teacher.model={apart / 'other'}"
    code, _, complained = command(
        "train", apart / "config.yaml", teacher, objectives, *QUICK, "train.steps=12"
    )
    assert code == 0, complained
    found = losses(apart / "run")
    assert np.isfinite(found).all()
    assert np.mean(found[-3:]) < np.mean(found[:3])


@pytest.mark.slow
def test_a_run_in_parts_is_the_whole(apart, command):
    """Neither accumulation nor the shape of the mesh changes anything."""
    found = {}
    for name, more in {
        "whole": [],
        "accumulated": ["train.accumulate=2"],
        "spread": ["mesh.data=2", "mesh.tensor=2"],
    }.items():
        output, teacher = f"output={apart / name}", f"teacher.model={apart / 'other'}"
        options = [output, teacher, CMA, *QUICK, "train.batch_size=8", *more]
        code, _, complained = command("train", apart / "config.yaml", *options)
        assert code == 0, complained
        found[name] = losses(apart / name)
    np.testing.assert_allclose(found["accumulated"], found["whole"], rtol=1e-4)
    np.testing.assert_allclose(found["spread"], found["whole"], rtol=1e-4)


def test_it_is_refused_where_there_is_nothing_to_project(apart, command):
    code, _, complained = command("check", apart / "config.yaml", DSKD, "teacher=null")
    assert code == 2
    assert "`dskd` needs teacher_hidden, teacher_logits, but there is no teacher" in complained
    code, _, complained = command(
        "check", apart / "config.yaml", DSKD, f"teacher.model={apart / 'other'}"
    )
    assert code == 2
    assert "dskd compares token with token" in complained
    assert "dskd_cma" in complained


def test_rows_with_prompts_for_the_teacher_alone(place, command):
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    rows = [{**row, "teacher_prompt": f"Add. {row['prompt']}"} for row in rows]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, complained = command("check", place / "config.yaml", DSKD)
    assert code == 2
    assert "dskd wants both models to read the same tokens" in complained
    code, _, complained = command(
        "train", place / "config.yaml", CMA, *QUICK, "train.steps=2", "data.length=64"
    )
    assert code == 0, complained
    assert np.isfinite(losses(place / "run")).all()
