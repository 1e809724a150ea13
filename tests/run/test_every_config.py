"""Every YAML file that we ship is read, opens with what it is, and survives being written."""

from pathlib import Path

import pytest

from jaxdistill import study
from jaxdistill.config import dump
from jaxdistill.run import read
from jaxdistill.study.config import members

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
RUNS = sorted({*CONFIGS.rglob("*.yaml")} - {*STUDIES})


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", [*RUNS, *STUDIES], ids=name)
def test_it_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# "), "begin with what it is and the command that runs it"
    assert f"configs/{name(path)}" in path.read_text() or "launch/" in path.read_text()


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_config(path: Path, tmp_path: Path) -> None:
    config = read(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert read(again) == config


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study(path: Path, tmp_path: Path) -> None:
    config = study.read(path)
    assert len(members(config, path)) == len(config.arms) * len(config.seeds)
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert study.read(again) == config
