"""Mistakes in options are found before anything is measured, and defaults come from runs."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from jaxdistill import compare, hub, run
from jaxdistill.cli import main
from jaxdistill.compare import CompareOptions, make_options
from jaxdistill.data import DataConfig
from jaxdistill.errors import UserError
from tests.compare.conftest import FinishedComparison

RUN = """
output: {run}
student: {{model: {model}}}
data: {{sources: rows.jsonl, length: 64}}
objectives: [{{type: cross_entropy}}]
train: {{steps: 1, optimizer: {{learning_rate: 0.01}}}}
"""
NO_DATA_OPTIONS = dict.fromkeys(("length", "loss_on", "prompt_template"))


def options(models: list[str], tmp_path: Path, **changes) -> CompareOptions:
    fields = {"sources": ["r"], "out": str(tmp_path / "out"), "prices": []}
    fields["data_options"] = NO_DATA_OPTIONS
    return make_options(models, **(fields | changes))


@pytest.fixture
def no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_cost", lambda path: pytest.fail("measured"))


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        (["a"], {}, "there is one model, expected two or more"),
        (["x/a", "y/a"], {}, r"two models are called a: x/a and y/a. Give them names"),
        (["a", "b"], {"prices": ["c=1"]}, "'c=1' prices 'c', which is none of a, b"),
        (["small", "big"], {"prices": ["smalls=1"]}, "Did you mean `small`"),
        (["a", "b"], {"prices": ["a=free"]}, "'free' is no price. Write `a=0.25`"),
    ],
)
def test_mistakes_are_found_before_files_are_read(tmp_path, models, changes, message):
    with pytest.raises(UserError, match=message):
        options(models, tmp_path, **changes)


@pytest.mark.usefixtures("no_measurements")
def test_missing_files_are_found_before_measurements(comparison: FinishedComparison, capfd):
    for flag, message in (
        ("--judgements", "cannot be read"),
        ("--task", "no such config file"),
    ):
        assert main([*comparison.command, flag, str(comparison.folder / "none.csv")]) == 2
        assert message in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_files_are_read(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300), Path("/proc/out")):
        with pytest.raises(UserError, match=r"cannot be written|no file can have this name"):
            options(["a", "b"], tmp_path, out=str(out))
    with pytest.raises(UserError, match="there is no such model"):
        options([f"{tmp_path}/{name}" for name in "ab"], tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # the check leaves nothing behind


@pytest.mark.usefixtures("no_measurements")
def test_mistakes_in_files_are_found_before_measurements(
    comparison: FinishedComparison, tmp_path, capfd, monkeypatch
):
    template = "prompt: '{query}'\nreference: prompt\n"
    (tmp_path / "task.yaml").write_text(template + "metrics: [exact_match]\n")
    (tmp_path / "metric.yaml").write_text("prompt: a\nreference: prompt\nmetrics: [bleu]\n")
    columns = "number,prompt,answer_1,answer_2,better,note\n"
    (tmp_path / "better.csv").write_text(columns + "1,a,b,c,3,\n")
    (tmp_path / "number.csv").write_text(columns + "7,a,b,c,1,\n")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for flag, name, message in (
        ("--task", "task.yaml", "rows.jsonl:1: has no `query`"),
        ("--task", "metric.yaml", "this metric needs the library sacrebleu"),
        ("--judgements", "better.csv", "row 2: `better` is '3'"),
        ("--judgements", "number.csv", "row 2: `number` is '7', expected 1 to 6"),
    ):
        arguments = [*comparison.command, flag, str(tmp_path / name)]
        arguments[arguments.index("--out") + 1] = str(tmp_path / "out")
        assert main(arguments) == 2
        assert message in capfd.readouterr().err


@pytest.mark.usefixtures("no_measurements")
def test_tasks_that_a_model_cannot_read_are_found_before_measurements(
    comparison: FinishedComparison, tmp_path, capfd
):
    small = hub.load(comparison.folder / "small", dtype=None)
    no_template = replace(small, tokenizer=tiny.tokenizer(chat_template=None))
    hub.save(no_template, tmp_path / "no_template")
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    config = RUN.format(run=unfinished, model=tmp_path / "no_template")
    (unfinished / "config.yaml").write_text(config)
    rows = [{"prompt": text, "completion": "Yes."} for text in ("Why?", "why " * 3000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = "prompt: '{prompt}'\nreference: completion\nmetrics: [exact_match]\n"
    (tmp_path / "plain.yaml").write_text(task)
    (tmp_path / "chat.yaml").write_text(f"{task}prompt_template: chat\n")
    models = [str(comparison.folder / "big"), str(tmp_path / "no_template"), str(unfinished)]
    common = ["--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")]
    for name, message in (
        ("plain", r"--task: run: prompt 1: it has [\d,]+ tokens, and the model reads"),
        ("chat", r"--task: run: .*has no chat template"),
    ):
        command = ["compare", *models, *common, "--task", str(tmp_path / f"{name}.yaml")]
        assert main(command) == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if "--task" in line]
        assert len(lines) == len(models)
        assert re.search(message, lines[-1])


@pytest.mark.parametrize(
    ("folder", "name"),
    [("lr=0.1", "lr-0.1"), ("my model (2)", "my-model-2"), ("-x", "x"), ("größe.gguf", "größe")],
)
def test_a_folder_of_any_name_has_a_name_for_its_price(
    comparison: FinishedComparison, monkeypatch, folder, name
):
    calls: list[CompareOptions] = []
    monkeypatch.setattr(compare, "compare", calls.append)
    monkeypatch.setattr(run, "check_max_positions", lambda path, length, option: 512)
    monkeypatch.chdir(comparison.folder)
    command = ["compare", f"runs/{folder}", "big", "--data", "rows.jsonl", "--out", "new"]
    assert main([*command, "--price", f"{name}=0.25"]) == 0
    assert calls[0].models == {name: f"runs/{folder}", "big": "big"}
    assert calls[0].prices == {name: 0.25}
    assert main(shlex.split(calls[0].command)[1:]) == 0
    assert calls[1] == calls[0]


def test_data_options_come_from_the_runs_among_the_models(tmp_path, monkeypatch):
    configs = {"one": DataConfig(sources=("r",), length=64), "two": DataConfig(sources=("r",))}
    for module in (run, sys.modules["jaxdistill.run.evaluate"]):  # `run.evaluate` is a function
        monkeypatch.setattr(module, "run_data_config", configs.get)
    monkeypatch.setattr(run, "check_max_positions", lambda path, length, option: 9999)
    config = options(["one", "base"], tmp_path).data
    assert config.length == 64
    assert config.truncation == "drop"
    with pytest.raises(UserError, match=r"data\.length is 64 and 1024\. Say which with `--length`"):
        options(["one", "two"], tmp_path)
    config = options(["one", "two"], tmp_path, data_options=NO_DATA_OPTIONS | {"length": 9}).data
    assert config.length == 9


def test_the_default_length_is_one_that_every_model_reads(tmp_path):
    tiny.model_folder(tmp_path / "short", max_position_embeddings=96)
    tiny.model_folder(tmp_path / "long")
    models = [str(tmp_path / name) for name in ("long", "short")]
    assert options(models, tmp_path).data.length == 96
    with pytest.raises(UserError, match=r"^--length: 97 .* 96 .*short"):
        options(models, tmp_path, data_options=NO_DATA_OPTIONS | {"length": 97})
