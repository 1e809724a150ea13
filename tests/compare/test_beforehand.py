"""What is wrong is told before hours of measuring."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from jaxdistill import hub, run
from jaxdistill.cli import main
from jaxdistill.compare import make_options
from jaxdistill.errors import UserError

RUN = """
output: {run}
student: {{model: {model}}}
data: {{sources: rows.jsonl, length: 64}}
objectives: [{{type: cross_entropy}}]
train: {{steps: 1, optimizer: {{learning_rate: 0.01}}}}
"""


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (["a"], {}, "there is one model, expected two or more"),
        (["x/a", "y/a"], {}, r"two models are called a: x/a and y/a. Give them names"),
        (["a", "b"], {"prices": ["c=1"]}, "'c=1' prices 'c', which is none of a, b"),
        (["small", "big"], {"prices": ["smalls=1"]}, "Did you mean `small`"),
        (["a", "b"], {"prices": ["a=free"]}, "'free' is no price. Write `a=0.25`"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(tmp_path, models, more, said):
    given = {"sources": ["r"], "out": str(tmp_path / "out"), "reading": {}, "prices": []} | more
    with pytest.raises(UserError, match=said):
        make_options(models, **given)


def test_files_that_are_not_there_are_told_before_anything_is_measured(place, capfd, monkeypatch):
    monkeypatch.setattr(run, "measure_cost", lambda path: pytest.fail("measured"))
    for flag, said in (("--judgements", "cannot be read"), ("--task", "no such config file")):
        assert main([*place.command, flag, str(place.folder / "none.csv")]) == 2
        assert said in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    given = {"sources": ["r"], "reading": {}, "prices": []}
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300), Path("/proc/out")):
        with pytest.raises(UserError, match=r"cannot be written|no file can have this name"):
            make_options(["a", "b"], out=str(out), **given)
    with pytest.raises(UserError, match="there is no such model"):
        make_options(
            [f"{tmp_path}/{name}" for name in "ab"], out=str(tmp_path / "new" / "out"), **given
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing of the trial stays


def test_files_that_do_not_fit_are_told_before_anything_is_measured(
    place, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(run, "measure_cost", lambda path: pytest.fail("measured"))
    asks = "prompt: '{query}'\nreference: prompt\n"
    (tmp_path / "task.yaml").write_text(asks + "metrics: [exact_match]\n")
    (tmp_path / "metric.yaml").write_text("prompt: a\nreference: prompt\nmetrics: [bleu]\n")
    columns = "number,prompt,answer_1,answer_2,better,note\n"
    (tmp_path / "better.csv").write_text(columns + "1,a,b,c,3,\n")
    (tmp_path / "number.csv").write_text(columns + "7,a,b,c,1,\n")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for flag, name, said in (
        ("--task", "task.yaml", "rows.jsonl:1: has no `query`"),
        ("--task", "metric.yaml", "this metric needs the library sacrebleu"),
        ("--judgements", "better.csv", "row 2: `better` is '3'"),
        ("--judgements", "number.csv", "row 2: `number` is '7', expected 1 to 6"),
    ):
        arguments = [*place.command, flag, str(tmp_path / name)]
        arguments[arguments.index("--out") + 1] = str(tmp_path / "out")
        assert main(arguments) == 2
        assert said in capfd.readouterr().err


def test_tasks_that_a_model_cannot_be_asked_are_told_before_anything_is_measured(
    place, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(run, "measure_cost", lambda path: pytest.fail("measured"))
    mute = hub.load(place.folder / "small", dtype=None)
    hub.save(replace(mute, tokenizer=tiny.tokenizer(chat_template=None)), tmp_path / "mute")
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    told = RUN.format(run=unfinished, model=tmp_path / "mute")
    (unfinished / "config.yaml").write_text(told)
    rows = [{"prompt": text, "completion": "Yes."} for text in ("Why?", "why " * 3000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asks = "prompt: '{prompt}'\nreference: completion\nmetrics: [exact_match]\n"
    (tmp_path / "plain.yaml").write_text(asks)
    (tmp_path / "chat.yaml").write_text(f"{asks}prompt_template: chat\n")
    models = [str(place.folder / "big"), str(tmp_path / "mute"), str(unfinished)]
    common = ["--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")]
    for name, said in (
        ("plain", r"--task: run: prompt 1: it has [\d,]+ tokens, and the model reads"),
        ("chat", r"--task: run: .*has no chat template"),
    ):
        command = ["compare", *models, *common, "--task", str(tmp_path / f"{name}.yaml")]
        assert main(command) == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if "--task" in line]
        assert len(lines) == len(models)
        assert re.search(said, lines[-1])
