"""Every shipped YAML file has a header, can be read, and survives being written."""

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


def assert_survives_dump(config, read, folder: Path) -> None:
    dumped = folder / "dumped.yaml"
    dumped.write_text(dump(config))
    assert read(dumped) == config


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", [*RUNS, *STUDIES, *TASKS], ids=name)
def test_yaml_file_has_a_header(path: Path) -> None:
    assert path.read_text().startswith("# "), "begin with a comment: its purpose and its command"
    assert f"configs/{name(path)}" in path.read_text() or "launch/" in path.read_text()


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_run_config_survives_dump(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert_survives_dump(config, load_config, tmp_path)


def example_row(path: Path) -> dict[str, Any]:
    """Return the example row in the header of a recipe."""
    header = "\n".join(line.removeprefix("#") for line in path.read_text().splitlines())
    return json.JSONDecoder().raw_decode(header.partition("Rows: ")[2])[0]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_fits_the_example_row_in_its_header(
    path: Path, tmp_path: Path, command: Any
) -> None:
    """Its commands agree with it, and `check` accepts it with its row and tiny models."""
    config, fields = load_config(path), example_row(path)
    row = data.parse_row(fields, source="header", row_id=0, as_chat=False)
    assert isinstance(row.teacher_prompt, data.Chat)
    task = re.search(r"configs/tasks/\w+.yaml", path.read_text())
    assert task
    prompt_end = load_task(CONFIGS.parent / task[0]).prompt.rpartition("}")[2]
    assert fields["prompt"].endswith(prompt_end)  # evaluation and training prompts end alike
    assert f"--model {config.output} " in path.read_text()

    tokenizer = tiny.sentencepiece()
    tiny.model_folder(tmp_path / "student", max_position_embeddings=config.data.length)
    tiny.model_folder(
        tmp_path / "teacher",
        reads=tokenizer,
        vocab_size=len(tokenizer),
        max_position_embeddings=config.data.length,
    )
    rows = [{**fields, "prompt": f"{n} {fields['prompt']}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {
        "output": "run",
        "student.model": "student",
        "teacher.model": "teacher",
        "data.sources": "rows.jsonl",
    }
    options = [f"{field}={tmp_path / name}" for field, name in paths.items()]
    code, stdout, stderr = command("check", path, *options)
    assert code == 0, stderr
    assert "aligned by positions" in " ".join(stdout.split())


@pytest.mark.parametrize("path", TASKS, ids=name)
def test_task_survives_dump_and_fits_its_example(path: Path, tmp_path: Path) -> None:
    task = load_task(path)
    assert_survives_dump(task, load_task, tmp_path)
    example = re.search(r"# Rows: (\{.*\})", path.read_text())
    assert example, "show what a row looks like"
    fields = json.loads(re.sub(r'(?<!")\.{3}', '"..."', example[1]))
    evals.make_prompts(task, [("example", fields)])


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_study_survives_dump(path: Path, tmp_path: Path) -> None:
    config = study.read(path)
    assert len(expand_runs(config, path)) == len(config.arms) * len(config.seeds)
    assert_survives_dump(config, study.read, tmp_path)
