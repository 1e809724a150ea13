"""A study from its YAML to its tables: two arms, two seeds, runs of seconds."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from jaxdistill import study
from jaxdistill.errors import UserError
from jaxdistill.evals import RATIOS, Estimate
from jaxdistill.report import QUANTITIES
from jaxdistill.study.table import _ratio, markdown

RUN = """
output: unused
student: {{model: {folder}/teacher, layers: 1}}
teacher: {{model: {folder}/teacher, type: online}}
data: {{sources: {folder}/rows.jsonl, heldout: 0.3, length: 48}}
objectives: [{{type: forward_kl}}]
train: {{steps: 3, batch_size: 2, log_every_steps: 2, save_every_steps: 1}}
evaluation: {{samples: 0}}
"""
STUDY = """
question: Which is better?
run: run.yaml
output: {folder}/study
common: {{train.steps: 4}}
baseline: words
seeds: [0, 1]
arms:
  teacher: {{}}
  words: {{objectives: [{{type: cross_entropy}}]}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `study.yaml` and all that it needs."""
    tiny.model_folder(tmp_path / "teacher", num_hidden_layers=2)
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(RUN.format(folder=tmp_path))
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path))
    return tmp_path


def start(place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdistill", "study", str(place / "study.yaml")],
        env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")},
    )


def test_a_study_that_is_stopped_goes_on_and_ends_in_tables(place: Path) -> None:
    with start(place) as process:
        while not (place / "study" / "teacher-0" / "metrics.jsonl").is_file():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 130
    assert not (place / "study" / "table.md").exists()
    with start(place) as process:
        assert process.wait() == 0

    lines = list(csv.DictReader((place / "study" / "table.csv").read_text().splitlines()))
    assert [line["arm"] for line in lines[::3]] == ["words", "teacher"]
    by_arm = {line["arm"]: line for line in lines if line["quantity"] == "forward_kl"}
    for arm in ("words", "teacher"):
        said = [
            json.loads((place / "study" / f"{arm}-{seed}" / "result.json").read_text())
            for seed in (0, 1)
        ]
        values = [result["comparison"]["student"]["forward_kl"] for result in said]
        assert json.loads(by_arm[arm]["by_seed"]) == pytest.approx(values)
        assert float(by_arm[arm]["value"]) == pytest.approx(np.mean(values))
        assert float(by_arm[arm]["low"]) <= np.mean(values) <= float(by_arm[arm]["high"])
    gap = float(by_arm["teacher"]["value"]) - float(by_arm["words"]["value"])
    assert float(by_arm["teacher"]["difference"]) == pytest.approx(gap)
    assert by_arm["words"]["difference"] == ""
    assert float(by_arm["words"]["tokens"]) > 0

    table = (place / "study" / "table.md").read_text()
    assert table.startswith("Which is better?\n")
    assert "| words |" in table
    assert (place / "study" / "forward_kl.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("baseline=word", "baseline: 'word' is not one of the arms .*Did you mean `words`"),
        ("quantities=[forward_k]", "'forward_k' is not one of .*Did you mean `forward_kl`"),
        ("quantities=[perplexity]", "'perplexity' is not one of nll"),
        ("run=other.yaml", "arm `teacher`, seed 0: .*no such config file"),
        ("arms.words={train.step: 1}", "arm `words`, seed 1: .*Did you mean `steps`"),
        ("arms={}", "at least 1"),
        ("seeds=[]", "at least 1"),
        ("arms={a/b: {}}", "pattern"),
    ],
)
def test_mistakes_are_told_before_anything_runs(place: Path, change: str, said: str) -> None:
    path = place / "study.yaml"
    with pytest.raises(UserError, match=said):
        study.run(study.read(path, (change,)), path)
    assert not (place / "study").exists()


def test_every_ratio_has_a_label_and_a_better_side() -> None:
    assert all(QUANTITIES[name].better for name in RATIOS)


def test_a_ratio_is_of_sums() -> None:
    runs = [[{"nll": 2.0, "num_bytes": 4, "scored_tokens": 1}] * 3] * 2
    sums, weights = _ratio("bits_per_byte", runs)
    np.testing.assert_allclose(sums / weights, 2 / 4 / np.log(2))
    with pytest.raises(UserError, match="forward_kl was not measured"):
        _ratio("forward_kl", runs)


def test_the_best_is_bold_whichever_way_is_better(place: Path) -> None:
    config = study.read(place / "study.yaml", ("quantities=[forward_kl,top1_agreement]",))
    found = [
        study.Outcome(
            arm=arm,
            values={"forward_kl": Estimate(kl, kl, kl), "top1_agreement": Estimate(top, top, top)},
            differences={},
            by_seed={},
            tokens=1.0,
            seconds=1.0,
        )
        for arm, kl, top in [("words", 2.0, 0.25), ("teacher", 1.0, 0.125)]
    ]
    table = markdown(config, found)
    assert "**1.0000 [1.0000, 1.0000]**" in table
    assert "**25.0 % [25.0 %, 25.0 %]**" in table
    assert table.count("**") == 4
