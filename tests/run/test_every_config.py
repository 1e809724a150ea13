"""Every YAML file that we ship is read, opens with what it is, and survives being written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from jaxdistill import data, evals, study
from jaxdistill.config import dump
from jaxdistill.run import load_config, load_task
from jaxdistill.study.config import expand_runs

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
TASKS = sorted((CONFIGS / "tasks").glob("*.yaml"))
RECIPES = sorted(p for p in (CONFIGS / "uld").glob("*.yaml") if "# Rows:" in p.read_text())
RUNS = sorted({*CONFIGS.rglob("*.yaml")} - {*STUDIES, *TASKS})


def assert_survives(config, read, folder: Path) -> None:
    again = folder / "again.yaml"
    again.write_text(dump(config))
    assert read(again) == config


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", [*RUNS, *STUDIES, *TASKS], ids=name)
def test_it_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# "), "begin with what it is and the command that runs it"
    assert f"configs/{name(path)}" in path.read_text() or "launch/" in path.read_text()


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_config(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert_survives(config, load_config, tmp_path)


def example(path: Path) -> dict[str, Any]:
    """The row that the head of a recipe shows."""
    head = "\n".join(line.removeprefix("#") for line in path.read_text().splitlines())
    return json.JSONDecoder().raw_decode(head.partition("Rows: ")[2])[0]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_shows_rows_that_fit_it(path: Path, tmp_path: Path, command: Any) -> None:
    """Its commands agree with it, and it can be run with its rows, on models of any names."""
    config, fields = load_config(path), example(path)
    row = data.parse_row(fields, source="head", row_id=0, as_chat=False)
    assert isinstance(row.teacher_prompt, data.Chat)
    task = re.search(r"configs/tasks/\w+.yaml", path.read_text())
    assert task
    last_words = load_task(CONFIGS.parent / task[0]).prompt.rpartition("}")[2]
    assert fields["prompt"].endswith(last_words)  # it is measured as it was trained
    assert f"--model {config.output} " in path.read_text()

    reader = tiny.sentencepiece()
    tiny.model_folder(tmp_path / "student", max_position_embeddings=config.data.length)
    tiny.model_folder(
        tmp_path / "teacher",
        reads=reader,
        vocab_size=len(reader),
        max_position_embeddings=config.data.length,
    )
    rows = [{**fields, "prompt": f"{n} {fields['prompt']}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {
        "output": "run",
        "student.model": "student",
        "teacher.model": "teacher",
        "data.sources": "rows.jsonl",
    }
    options = [f"{field}={tmp_path / place}" for field, place in places.items()]
    code, printed, complained = command("check", path, *options)
    assert code == 0, complained
    assert "aligned by positions" in " ".join(printed.split())


@pytest.mark.parametrize("path", TASKS, ids=name)
def test_a_task(path: Path, tmp_path: Path) -> None:
    task = load_task(path)
    assert_survives(task, load_task, tmp_path)
    example = re.search(r"# Rows: (\{.*\})", path.read_text())
    assert example, "show what a row looks like"
    fields = json.loads(re.sub(r'(?<!")\.{3}', '"..."', example[1]))
    evals.make_prompts(task, [("example", fields)])


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study(path: Path, tmp_path: Path) -> None:
    config = study.read(path)
    assert len(expand_runs(config, path)) == len(config.arms) * len(config.seeds)
    assert_survives(config, study.read, tmp_path)
