"""Mistakes of users end in one line each and exit code 2, without partial output."""

import json
import shutil

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from jaxdistill.cli import main
from jaxdistill.run.folder import RunFolder

OVERRIDES = {
    "train.step=5": "train.step: there is no such field. Did you mean `steps`?",
    "train.steps=many": "train.steps: input should be a valid integer; got 'many' (text)",
    "objectives=[{type: forward_k}]": "Did you mean `forward_kl`?",
    "objectives=[]": "objectives",
    "objectives=[{type: forward_kl, weight: 0}]": "objectives: every weight is 0",
    "teacher=null": "`forward_kl` needs the teacher's logits, but there is no teacher",
    "student.layers=9": "9 layers are more than the 3 that the model has",
    "student.layers=[0,7]": "[0, 7] are not indices of layers; the model has 3 layers",
    "student.model={folder}/teachr": "Did you mean `teacher`?",
    "data.sources={folder}/row.jsonl": "Did you mean `rows.jsonl`?",
    "data.length=1": "nothing is left to learn",
    "train.batch_size=3": "train.batch_size = 3 cannot be split evenly",
    "train.optimizer.warmup_steps=6": "leaves nothing of a run of 6 steps",
    "mesh.tensor=3": "mesh (data=-1, fsdp=1, tensor=3)",
    "seed=-5": "seed: input should be greater than or equal to 0",
    "output={folder}/rows.jsonl": "is a file; a run needs a folder",
    "output={folder}/" + "x" * 300: "no file can have this name",
    "student.model=" + "x" * 300: "no file can have this name",
    "data.sources=" + "x" * 300: "no file can have this name",
    "objectives.0.weight=[[0]]": "objectives[0].weight",
    "objectives.0.weight=[1,[2]]": "objectives[0].weight",
    "train.steps=" + "[" * 500 + "]" * 500: "override `train.steps=...`: nested too deeply",
    "data.length=257": "data.length: 257 positions are more than the 256 that",
    "data.rollout={type: teacher, temperature: .inf}": "finite",
    "output=": "output: string should have at least 1 character",
    "data.rollout.type=teachers": "Did you mean `teacher`?",
}


@pytest.mark.parametrize("override", OVERRIDES)
@pytest.mark.parametrize("name", ["check", "train"])
def test_config_mistake_is_explained(workspace, command, name, override):
    code, _, stderr = command(
        name, workspace / "config.yaml", override.replace("{folder}", str(workspace))
    )
    assert code == 2
    assert OVERRIDES[override] in stderr
    assert "Traceback" not in stderr
    assert not (workspace / "run" / "student").exists()


def test_several_mistakes_are_reported_together(workspace, command):
    overrides = ["train.batch_size=3", "student.layers=9", f"data.sources={workspace}/row.jsonl"]
    _, _, stderr = command("check", workspace / "config.yaml", *overrides)
    assert "batch_size" in stderr
    assert "9 layers" in stderr
    assert "row.jsonl" in stderr


def test_invalid_row_is_named_by_file_and_line(workspace, command):
    with (workspace / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "half a row\n')
    code, _, stderr = command("train", workspace / "config.yaml")
    assert code == 2
    assert "error: rows.jsonl:41: not JSON" in stderr


@pytest.mark.parametrize("name", ["check", "train"])
@pytest.mark.parametrize("side", ["sources", "heldout_sources"])
def test_token_without_a_row_in_the_model_is_refused(workspace, command, name, side):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"<tool_{number}>" for number in range(30)])
    tokenizer.save_pretrained(workspace / "teacher")
    row = {"prompt": "call <tool_29> now", "completion": "ok"}
    (workspace / "tools.jsonl").write_text(json.dumps(row))
    code, _, stderr = command(name, "config.yaml", "data.heldout=0", f"data.{side}=tools.jsonl")
    assert code == 2
    assert "tools.jsonl:1: token 349 (`<tool_29>`) is behind the 336 rows" in stderr


@pytest.mark.parametrize("name", ["check", "train"])
def test_empty_model_name_is_refused(workspace, command, name):
    code, _, stderr = command(name, "config.yaml", "student.model=")
    assert code == 2
    assert "student.model" in stderr


def test_empty_data_set_is_refused(workspace, command):
    (workspace / "rows.jsonl").write_text("")
    code, _, stderr = command("train", workspace / "config.yaml")
    assert code == 2
    assert "an empty data set" in stderr


@pytest.mark.parametrize("damage", ["missing", "truncated", "model_type", "not json"])
def test_damaged_model_files_are_refused(workspace, command, damage):
    weights, config = (
        workspace / "teacher" / "model.safetensors",
        workspace / "teacher" / "config.json",
    )
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "model_type":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "lama"}))
    else:
        config.write_text("{")
    code, _, stderr = command("train", workspace / "config.yaml")
    assert code == 2
    assert str(workspace / "teacher") in stderr or "teacher.model" in stderr
    assert "Traceback" not in stderr


def test_teacher_with_another_tokenizer_is_refused(workspace, command):
    import tiny

    shutil.copytree(workspace / "teacher", workspace / "other")
    tiny.tokenizer(vocab_size=310).save_pretrained(workspace / "other")
    code, _, stderr = command(
        "check", workspace / "config.yaml", f"teacher.model={workspace}/other"
    )
    assert code == 2
    assert "tokenizer is not the student's" in stderr


def test_run_folder_of_another_config_is_refused(finished_copy, command):
    before = (finished_copy / "run" / "config.yaml").read_bytes()
    learning_rate = "train.optimizer.learning_rate=0.5"
    code, _, stderr = command("train", "full.yaml", learning_rate)
    assert code == 2
    assert "train.optimizer.learning_rate = 0.01, not 0.5" in stderr
    assert (finished_copy / "run" / "config.yaml").read_bytes() == before


def test_eval_refuses_a_teacher_with_another_tokenizer(workspace, command):
    import tiny

    shutil.copytree(workspace / "teacher", workspace / "other")
    tiny.tokenizer(vocab_size=310).save_pretrained(workspace / "other")
    code, _, stderr = command(
        "eval",
        "--model",
        workspace / "teacher",
        "--teacher",
        workspace / "other",
        "--data",
        workspace / "rows.jsonl",
    )
    assert code == 2
    assert "leave `--teacher` out" in stderr


def test_fetch_suggests_the_nearest_name(workspace, command):
    code, _, stderr = command("fetch", "smollm2-135m-instuct", "--out", workspace)
    assert code == 2
    assert "Did you mean `smollm2-135m-instruct`?" in stderr


@pytest.mark.parametrize(
    "flags", [("eval", "--data", "x"), ("generate",), ("export", "--out", "x")]
)
def test_model_name_that_no_file_can_have_is_refused(command, flags):
    code, _, stderr = command(flags[0], "--model", "x" * 300, *flags[1:])
    assert code == 2
    assert "no file can have this name" in stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("eval", "--data", "x", "--length", "0"),
        ("cost", "--new-tokens", "0"),
        ("generate", "--temperature", "-1"),
        ("generate", "--top-p", "1.5"),
        ("generate", "--max-new-tokens", "many"),
    ],
)
def test_invalid_flag_is_refused(flags, capfd):
    with pytest.raises(SystemExit) as caught:
        main([flags[0], "--model", "x", *flags[1:]])
    assert caught.value.code == 2
    assert "error: argument --" in capfd.readouterr().err


def test_run_does_not_continue_with_changed_rows(unfinished_copy, command):
    rows = (unfinished_copy / "rows.jsonl").read_text().replace("It is 2.", "It is two.")
    (unfinished_copy / "rows.jsonl").write_text(rows)
    code, _, stderr = command("train", "full.yaml")
    assert code == 2
    assert "the rows' content" in stderr


def test_two_processes_cannot_train_in_one_folder(workspace, command):
    with RunFolder(workspace / "run").lock():
        code, _, stderr = command("train", workspace / "config.yaml")
    assert code == 2
    assert "another process is training" in stderr


def test_export_does_not_change_an_unfinished_run(unfinished_copy, command):
    run, out = unfinished_copy / "run", unfinished_copy / "out"
    unfinished = run / "checkpoints" / "6.orbax-checkpoint-tmp"
    unfinished.mkdir()
    code, _, stderr = command("export", "--model", run, "--out", out, "--dtype", "bfloat16")
    assert code == 0, stderr
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert unfinished.is_dir()


@pytest.mark.parametrize(
    ("heldout", "expected"),
    [(0.0, ("train/loss is nan", "rows.jsonl:")), (0.2, ("forward_kl is NaN. The teacher's",))],
)
def test_teacher_with_nan_weights_stops_the_run(workspace, command, heldout, expected):
    teacher = load_file(workspace / "teacher" / "model.safetensors")
    shutil.copytree(workspace / "teacher", workspace / "broken")
    weights = {name: np.full_like(tensor, np.nan) for name, tensor in teacher.items()}
    save_file(weights, workspace / "broken" / "model.safetensors", metadata={"format": "pt"})
    overrides = [f"teacher.model={workspace}/broken", f"data.heldout={heldout}"]
    code, _, stderr = command("train", workspace / "config.yaml", *overrides)
    assert code == 2
    assert all(part in stderr for part in expected), stderr


@pytest.mark.parametrize("name", ["check", "train"])
def test_folder_with_other_files_is_refused(workspace, command, name):
    (workspace / "docs").mkdir()
    (workspace / "docs" / "index.md").write_text("Hello")
    code, _, stderr = command(name, "config.yaml", "output=docs")
    assert code == 2
    assert "output: docs holds 1 other file(s) (index.md, …) and no run" in stderr
    assert [path.name for path in (workspace / "docs").iterdir()] == ["index.md"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config.yaml"),
        ("train", "config.yaml"),
        ("export", "--model", "teacher", "--out", "run"),
        ("compare", "teacher", "b=teacher", "--data", "rows.jsonl", "--out", "run"),
        ("study", "study.yaml"),
    ],
)
def test_several_processes_are_refused_before_anything_is_written(
    workspace, command, monkeypatch, arguments
):
    study = "run: config.yaml\noutput: run\narms: {a: {}}\nbaseline: a\n"
    (workspace / "study.yaml").write_text(study)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    code, _, stderr = command(*arguments)
    assert code == 2
    assert stderr.startswith("error: JAX runs in 2 processes")
    assert stderr.count("\n") == 1
    assert not (workspace / "run").exists()


def test_names_from_files_are_escaped_and_cut(workspace, command):
    weights = load_file(workspace / "teacher" / "model.safetensors")
    weights["\x1b[31mred\nline" + "y" * 100_000] = np.zeros(1, np.float32)
    save_file(weights, workspace / "teacher" / "model.safetensors", metadata={"format": "pt"})
    code, _, stderr = command("generate", "--model", "teacher", "--prompt", "a")
    assert code == 2
    (line,) = stderr.splitlines()
    assert "\\x1b[31mred\\nline" in line
    assert line.isprintable()
    assert len(line) < 1100


def test_argument_that_no_parser_knows_is_one_line(capfd):
    with pytest.raises(SystemExit):
        main(["check", "a.yaml", "--\x1b[31m" + "y" * 100_000])
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.isprintable()
    assert "unrecognized arguments: --\\x1b[31my" in last
    assert len(last) < 1200
