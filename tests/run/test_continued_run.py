"""A run continues after a move or an update, and is refused early if its inputs have changed."""

import json
import shutil
import sys

import pytest

from jaxdistill import run
from jaxdistill.config import flatten
from jaxdistill.run.fingerprint import run_fingerprint
from jaxdistill.run.result import read_initial_metrics, read_result

MOVED = ("student.model=moved/teacher", "teacher.model=moved/teacher")
MOVED_ROWS = "data.sources=moved/rows.jsonl"


def _change_config(folder, **changes):
    path = folder / "teacher" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _write_old_fingerprint(folder):
    """Give the checkpoints the fingerprint of an older version: all fields, no content."""
    for path in (folder / "run" / "checkpoints").glob("[0-9]*"):
        (path / "checksums.json").unlink()
        file = path / "run" / "metadata"
        content = json.loads(file.read_text())
        fields = flatten(run.load_config(folder / "full.yaml"))
        rows = content["fingerprint"]["the rows' content"]
        content["fingerprint"] = {**fields, "the rows' content": rows, "the teacher's weights": "1"}
        file.write_text(json.dumps(content))


def test_fingerprint_holds_only_fields_that_differ_from_their_defaults(workspace):
    config = run.load_config("full.yaml", ["train.optimizer.clip_norm=null"])
    checked = run.check(config)
    fingerprint = run_fingerprint(config, checked.inspection.models, {})
    names = {name for name, value in fingerprint.values.items() if not isinstance(value, dict)}
    assert names == {
        "data.heldout",
        "data.length",
        "objectives.0.type",
        "objectives.0.weight",
        "objectives.1.type",
        "objectives.1.weight",
        "student.layers",
        "teacher.type",
        "train.batch_size",
        "train.optimizer.clip_norm",
        "train.optimizer.learning_rate",
        "train.steps",
    }
    assert fingerprint.defaults["data.truncation"] == "cut_end"


def test_moved_run_of_an_older_version_continues(unfinished_copy, command):
    """Its initial metrics are damaged, too; they are computed again."""
    folder = unfinished_copy
    expected = (folder / "run" / "before.json").read_text()
    _write_old_fingerprint(folder)
    (folder / "moved").mkdir()
    for name in ("teacher", "rows.jsonl"):
        shutil.move(folder / name, folder / "moved" / name)
    (folder / "run" / "before.json").write_text(expected[:40])
    code, stdout, stderr = command("train", "full.yaml", *MOVED, MOVED_ROWS)
    assert code == 0, stderr
    assert "continues from step 4 of 6" in stdout
    before = json.loads((folder / "run" / "before.json").read_text())
    assert before == pytest.approx(json.loads(expected))
    assert "student before" in json.loads((folder / "run/result.json").read_text())["comparison"]


@pytest.mark.parametrize("name", ["check", "train"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5}},
            "layers.0.rope.base = 10000.0, not 500000.0.",
        ),
        ({"rms_norm_eps": 1e-3}, "norm_epsilon = None, not 0.001."),
        ({"hidden_act": "gelu"}, "activation = None, not 'gelu'."),
    ],
)
def test_changed_model_config_is_refused_by_name(unfinished_copy, command, name, changes, expected):
    _change_config(unfinished_copy, **changes)
    code, _, stderr = command(name, "full.yaml")
    assert code == 2
    assert f"4: was written with the teacher's {expected}" in stderr
    assert f"4: was written with the student's {expected}" in stderr


def test_changed_template_and_tokens_are_refused(unfinished_copy, command):
    (unfinished_copy / "teacher" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    path = unfinished_copy / "teacher" / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|text_end|>"))
    code, _, stderr = command("check", "full.yaml")
    assert code == 2
    assert "the teacher's chat template = " in stderr
    assert "the teacher's tokenizer = " in stderr


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.optimizer.learning_rate=0.5", "learning_rate = 0.01, not 0.5"),
        ("data.truncation=drop", "data.truncation = 'cut_end', not 'drop'"),
        ("data.heldout=0.1", "the rows' content = "),
    ],
)
def test_other_config_is_refused_before_weights_are_loaded(
    unfinished_copy, command, monkeypatch, override, expected
):
    build = sys.modules["jaxdistill.run.build"]
    monkeypatch.setattr(build, "load_teacher", lambda *_: pytest.fail("loaded the teacher"))
    for name in ("check", "train"):
        code, _, stderr = command(name, "full.yaml", override)
        assert code == 2
        assert expected in stderr


def test_changed_prompts_are_refused_before_the_teacher_completes_them(workspace, command):
    overrides = ["data.rollout={type: teacher}"]
    config = run.load_config("config.yaml", overrides)
    inspection = run.check(config).inspection
    rows = run.check(config).rows
    content = run.check_rows(config, inspection, rows).content
    path = workspace / "run" / "checkpoints" / "2" / "run" / "metadata"
    path.parent.mkdir(parents=True)
    values = dict(run_fingerprint(config, inspection.models, content).values)
    path.write_text(json.dumps({"fingerprint": {**values, "the rows' content": "later"}}))
    assert command("check", "config.yaml", *overrides)[0] == 0
    text = (workspace / "rows.jsonl").read_text().replace("What is", "How much is")
    (workspace / "rows.jsonl").write_text(text)
    for name in ("check", "train"):
        code, _, stderr = command(name, "config.yaml", *overrides)
        assert code == 2
        assert "2: was written with the rows' prompts = " in stderr


DAMAGED = ["", "[]", "{}", "7", '{"comparison": {"stu', "[" * 100_000]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_result_counts_as_missing(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    assert read_result(path) is None
    assert read_initial_metrics(path) is None


def test_result_of_other_types_counts_as_missing(tmp_path):
    path = tmp_path / "result.json"
    for content in ({"comparison": 1}, {"comparison": {"student": {"nll": "low"}}}):
        path.write_text(json.dumps({**content, "samples": [], "facts": {}}))
        assert read_result(path) is None


def test_run_with_a_damaged_result_is_finished_again(finished_copy, command):
    result = finished_copy / "run" / "result.json"
    expected = json.loads(result.read_text())["comparison"]["student"]
    result.write_text(result.read_text()[:200])
    (finished_copy / "run" / "before.json").write_text("[]")
    code, _, stderr = command("train", "full.yaml")
    assert code == 0, stderr
    comparison = json.loads(result.read_text())["comparison"]
    assert comparison["student"]["forward_kl"] == pytest.approx(expected["forward_kl"])
    assert comparison["student before"]["forward_kl"] > expected["forward_kl"]


@pytest.mark.parametrize("name", ["check", "train"])
@pytest.mark.parametrize("blocked", ["checkpoints", "student", "report"])
def test_file_in_place_of_a_folder_is_refused_before_the_first_step(
    workspace, command, name, blocked
):
    (workspace / "run").mkdir()
    (workspace / "run" / blocked).write_text("")
    code, _, stderr = command(name, "config.yaml")
    assert code == 2
    assert f"output: run/{blocked} is a file, and a run writes a folder there" in stderr


@pytest.mark.parametrize("blocked", ["metrics.jsonl", "result.json", "student.gguf"])
def test_folder_in_place_of_a_file_is_refused(workspace, command, blocked):
    (workspace / "run" / blocked).mkdir(parents=True)
    code, _, stderr = command("train", "config.yaml")
    assert code == 2
    assert f"output: run/{blocked} is a folder, and a run writes a file there" in stderr
