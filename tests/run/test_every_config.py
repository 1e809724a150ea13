"""Every YAML file that we ship is read, opens with what it is, and survives being written."""

import json
import re
from pathlib import Path

import pytest

from jaxdistill import evals, study
from jaxdistill.config import dump
from jaxdistill.run import read, read_task
from jaxdistill.study.config import members

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
TASKS = sorted((CONFIGS / "tasks").glob("*.yaml"))
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
    config = read(path)
    assert_survives(config, read, tmp_path)


@pytest.mark.parametrize("path", TASKS, ids=name)
def test_a_task(path: Path, tmp_path: Path) -> None:
    task = read_task(path)
    assert_survives(task, read_task, tmp_path)
    example = re.search(r"# Rows: (\{.*\})", path.read_text())
    assert example, "show what a row looks like"
    fields = json.loads(re.sub(r'(?<!")\.{3}', '"..."', example[1]))
    evals.questions(task, [("example", fields)])


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study(path: Path, tmp_path: Path) -> None:
    config = study.read(path)
    assert len(members(config, path)) == len(config.arms) * len(config.seeds)
    assert_survives(config, study.read, tmp_path)
