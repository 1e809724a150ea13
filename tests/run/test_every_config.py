"""Every YAML file that we ship is read, opens with what it is, and survives being written."""

from pathlib import Path

import pytest

from jaxdistill.config import dump
from jaxdistill.run import read

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config(path: Path, tmp_path: Path):
    config = read(path)
    assert path.read_text().startswith("# "), "begin with what it is and the command that runs it"
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert read(again) == config
