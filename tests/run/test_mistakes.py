"""Whatever a user gets wrong ends in plain lines and exit code 2; nothing is half-written."""

import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdistill.cli import main
from jaxdistill.run.folder import RunFolder

OVERRIDES = {
    "train.step=5": "train.step: TrainConfig has no such field. Did you mean `steps`?",
    "train.steps=many": "train.steps: input should be a valid integer; got 'many' (text)",
    "objectives=[{type: forward_k}]": "Did you mean `forward_kl`?",
    "objectives=[]": "objectives",
    "objectives=[{type: forward_kl, weight: 0}]": "objectives: every weight is 0",
    "teacher=null": "`forward_kl` needs teacher_logits, but there is no teacher",
    "student.layers=9": "9 layers were asked of a model that has 3",
    "student.layers=[0,7]": "does not name layers of a model that has 3",
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
    "data.length=257": "data.length: 257 places are more than the 256 that",
    "data.rollout={type: teacher, temperature: .inf}": "finite",
    "output=": "output: string should have at least 1 character",
    "data.rollout.type=teachers": "Did you mean `teacher`?",
}


@pytest.mark.parametrize("override", OVERRIDES)
@pytest.mark.parametrize("name", ["check", "train"])
def test_a_wrong_config(place, command, name, override):
    code, _, complained = command(
        name, place / "config.yaml", override.replace("{folder}", str(place))
    )
    assert code == 2
    assert OVERRIDES[override] in complained
    assert "Traceback" not in complained
    assert not (place / "run" / "student").exists()


def test_several_mistakes_are_told_together(place, command):
    wrong = ["train.batch_size=3", "student.layers=9", f"data.sources={place}/row.jsonl"]
    _, _, complained = command("check", place / "config.yaml", *wrong)
    assert "batch_size" in complained
    assert "9 layers" in complained
    assert "row.jsonl" in complained


def test_a_bad_row_is_named_by_file_and_line(place, command):
    with (place / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "half a row\n')
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert f"{place}/rows.jsonl:41: not JSON" in complained


def test_an_empty_data_set(place, command):
    (place / "rows.jsonl").write_text("")
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert "an empty data set" in complained


@pytest.mark.parametrize("damage", ["missing", "truncated", "model_type", "not json"])
def test_damaged_model_files(place, command, damage):
    weights, config = place / "teacher" / "model.safetensors", place / "teacher" / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "model_type":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "lama"}))
    else:
        config.write_text("{")
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert str(place / "teacher") in complained or "teacher.model" in complained
    assert "Traceback" not in complained


def test_a_tokenizer_that_is_not_the_students(place, command):
    import tiny

    shutil.copytree(place / "teacher", place / "other")
    other = tiny.tokenizer(vocab_size=310)
    other.save_pretrained(place / "other")
    code, _, complained = command("check", place / "config.yaml", f"teacher.model={place}/other")
    assert code == 2
    assert "tokenizer is not the student's" in complained


def test_a_run_folder_of_another_config(place, command):
    assert command("train", place / "config.yaml")[0] == 0
    result = (place / "run" / "config.yaml").read_bytes()
    rate = "train.optimizer.learning_rate=0.5"
    code, _, complained = command("train", place / "config.yaml", rate)
    assert code == 2
    assert "train.optimizer.learning_rate = 0.01, not 0.5" in complained
    assert (place / "run" / "config.yaml").read_bytes() == result


def test_eval_refuses_unlike_tokenizers(place, command):
    import tiny

    shutil.copytree(place / "teacher", place / "other")
    tiny.tokenizer(vocab_size=310).save_pretrained(place / "other")
    code, _, complained = command(
        "eval",
        "--model",
        place / "teacher",
        "--teacher",
        place / "other",
        "--data",
        place / "rows.jsonl",
    )
    assert code == 2
    assert "leave `--teacher` out" in complained


def test_fetch_names_the_nearest(place, command):
    code, _, complained = command("fetch", "smollm2-135m-instuct", "--out", place)
    assert code == 2
    assert "Did you mean `smollm2-135m-instruct`?" in complained


@pytest.mark.parametrize(
    "flags", [("eval", "--data", "x"), ("generate",), ("export", "--out", "x")]
)
def test_a_name_that_no_model_can_have(command, flags):
    code, _, complained = command(flags[0], "--model", "x" * 300, *flags[1:])
    assert code == 2
    assert "no file can have this name" in complained


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
def test_a_wrong_flag(flags, capfd):
    with pytest.raises(SystemExit) as caught:
        main([flags[0], "--model", "x", *flags[1:]])
    assert caught.value.code == 2
    assert "error: argument --" in capfd.readouterr().err


def test_rows_that_change_stop_a_run_from_going_on(place, command, monkeypatch):
    module = sys.modules["jaxdistill.run.train"]
    loop = module.run_loop
    monkeypatch.setattr(module, "run_loop", lambda *a, **k: loop(*a, **{**k, "num_steps": 2}))
    assert command("train", place / "config.yaml")[0] == module.INTERRUPTED_EXIT_CODE
    monkeypatch.undo()
    rows = (place / "rows.jsonl").read_text().replace("It is 2.", "It is two.")
    (place / "rows.jsonl").write_text(rows)
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert "the rows' content" in complained


def test_two_runs_do_not_share_a_folder(place, command):
    with RunFolder(place / "run").lock():
        code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert "another process is training" in complained


def test_looking_at_a_run_leaves_it_alone(place, command, monkeypatch):
    module = sys.modules["jaxdistill.run.train"]
    loop = module.run_loop
    monkeypatch.setattr(module, "run_loop", lambda *a, **k: loop(*a, **{**k, "num_steps": 2}))
    assert command("train", place / "config.yaml")[0] == module.INTERRUPTED_EXIT_CODE
    unfinished = place / "run" / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    code, _, complained = command(
        "export", "--model", place / "run", "--out", place / "out", "--dtype", "bfloat16"
    )
    assert code == 0, complained
    assert json.loads((place / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert unfinished.is_dir()


@pytest.mark.parametrize(
    ("heldout", "said"),
    [(0.0, ("train/loss is nan", "rows.jsonl:")), (0.2, ("forward_kl is NaN. The teacher's",))],
)
def test_a_teacher_of_nan_stops_the_run(place, command, heldout: float, said: tuple[str, ...]):
    teacher = load_file(place / "teacher" / "model.safetensors")
    shutil.copytree(place / "teacher", place / "broken")
    broken = {name: np.full_like(tensor, np.nan) for name, tensor in teacher.items()}
    save_file(broken, place / "broken" / "model.safetensors", metadata={"format": "pt"})
    changes = [f"teacher.model={place}/broken", "objectives=[{type: forward_kl}]"]
    changes += [f"data.heldout={heldout}"]
    code, _, complained = command("train", place / "config.yaml", *changes)
    assert code == 2
    assert all(part in complained for part in said), complained
