"""A study from its YAML file to its tables: two arms, two seeds, runs of seconds."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from untimed import untimed

from jaxdistill import study
from jaxdistill.cli import main
from jaxdistill.errors import UserError
from jaxdistill.evals import RATIO_METRICS, Estimate
from jaxdistill.report import QUANTITIES
from jaxdistill.study.process_runner import ProcessRunner
from jaxdistill.study.table import _ratio_terms, markdown_table


def train_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Train the runs of a study in this process, where JAX is imported already."""
    patch.setattr(ProcessRunner, "run", lambda self, command: main(command[3:]))
    patch.setattr(sys.modules["jaxdistill.run.train"], "use_compilation_cache", lambda: None)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch):
    train_in_this_process(monkeypatch)


def run_study(*changes: str) -> int:
    """Run the study with a batch size that fits the devices of the tests."""
    fields = "{train.steps: 4, train.batch_size: 4, train.save_every_steps: 2}"
    path = Path("study.yaml")
    return study.run(study.read(path, (f"common={fields}", *changes)), path)


@pytest.fixture(scope="module")
def finished_study(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(template, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_in_this_process(patch)
        assert run_study() == 0
    return folder


@pytest.fixture
def study_of_one_seed(finished_study: Path, workspace: Path) -> Path:
    """A workspace with the finished runs of seed 0."""
    shutil.copytree(
        finished_study / "study", workspace / "study", ignore=shutil.ignore_patterns("*-1")
    )
    return workspace


def finish_times(workspace: Path) -> dict[str, int]:
    """Return when each finished run ended."""
    return {
        path.parent.name: path.stat().st_mtime_ns for path in workspace.glob("study/*/result.json")
    }


def test_a_study_ends_in_tables(finished_study: Path) -> None:
    folder = finished_study / "study"
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [line["arm"] for line in lines[::3]] == ["labels", "teacher"]
    by_arm = {line["arm"]: line for line in lines if line["quantity"] == "forward_kl"}
    for arm in ("labels", "teacher"):
        results = [
            json.loads((folder / f"{arm}-{seed}" / "result.json").read_text()) for seed in (0, 1)
        ]
        values = [result["comparison"]["student"]["forward_kl"] for result in results]
        assert json.loads(by_arm[arm]["by_seed"]) == pytest.approx(values)
        assert float(by_arm[arm]["value"]) == pytest.approx(np.mean(values))
        assert float(by_arm[arm]["low"]) <= np.mean(values) <= float(by_arm[arm]["high"])
    gap = float(by_arm["teacher"]["value"]) - float(by_arm["labels"]["value"])
    assert float(by_arm["teacher"]["difference"]) == pytest.approx(gap)
    assert by_arm["labels"]["difference"] == ""
    assert float(by_arm["labels"]["tokens"]) > 0

    table = (folder / "table.md").read_text()
    assert table.startswith("Which is better?\n")
    assert "| labels |" in table
    assert (folder / "forward_kl.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.steps=5", "field of the runs. Write `train.steps: 5` under `common`"),
        ("baseline=label", "baseline: 'label' is not one of the arms .*Did you mean `labels`"),
        ("quantities=[forward_k]", "'forward_k' is not one of .*Did you mean `forward_kl`"),
        ("quantities=[perplexity]", "'perplexity' is not one of nll"),
        ("run=other.yaml", r"^\S+other.yaml: no such config file"),
        ("arms.labels={train.step: 1}", "arm `labels`, seed 1: .*Did you mean `steps`"),
        ("arms={}", "at least 1"),
        ("seeds=[]", "at least 1"),
        ("seeds=[1, 1]", r"seeds: \[1, 1\] names one twice"),
        ("arms.labels={seed: 7}", "arms.labels.seed: .* the study's `seeds` instead"),
        ("common={output: here}", "common.output: .* the study's `output` instead"),
        ("arms={a/b: {}}", "pattern"),
    ],
)
def test_mistakes_are_reported_before_any_run(workspace: Path, change: str, expected: str) -> None:
    path = workspace / "study.yaml"
    with pytest.raises(UserError, match=expected):
        study.run(study.read(path, (change,)), path)
    assert not (workspace / "study").exists()


def test_arms_that_do_not_fit_their_teacher_are_reported_before_any_run(workspace: Path) -> None:
    tokenizer = tiny.sentencepiece()
    tiny.model_folder(workspace / "other", reads=tokenizer, vocab_size=len(tokenizer))
    path, other = workspace / "study.yaml", workspace / "other"
    for change, expected in (
        (f"arms.labels={{teacher.model: {other}}}", "arm `labels`: .*forward_kl compares token"),
        ("arms.labels={teacher: null}", "arm `labels`: .*`forward_kl` needs the teacher's logits"),
        ("arms.labels={teacher.model: nowhere}", "arm `labels`: teacher.model: nowhere: "),
        (
            "arms.labels={objectives: [{type: hidden, layers: [[1, 9]]}]}",
            r"arm `labels`: objectives\[0\]: layers: \[1, 9\] names layer 9 of the teacher",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            study.run(study.read(path, (change,)), path)
        assert not (workspace / "study").exists()


@pytest.mark.usefixtures("in_this_process")
def test_only_new_arms_are_trained(
    study_of_one_seed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workspace = study_of_one_seed
    first = finish_times(workspace)
    assert sorted(first) == ["labels-0", "teacher-0"]

    new_arm = "arms.rounded={student.export_dtype: bfloat16}"
    assert run_study("seeds=[0]", new_arm) == 0
    assert sorted(finish_times(workspace)) == ["labels-0", "rounded-0", "teacher-0"]
    assert first.items() <= finish_times(workspace).items()
    table = (workspace / "study" / "table.md").read_text()
    assert "| rounded |" in table

    # An arm whose training would change is refused, and its former results stay.
    changed = "arms.labels={objectives: [{type: reverse_kl}]}"
    with pytest.raises(UserError, match="arm `labels`, seed 0: the run ended with exit code 2"):
        run_study("seeds=[0]", changed)
    errors = capfd.readouterr().err
    assert "was written with objectives" in errors
    assert "choose another run folder" in errors
    assert first.items() <= finish_times(workspace).items()
    assert (workspace / "study" / "table.md").read_text() == table

    # An arm whose evaluation changed is evaluated again, and not trained.
    records = (workspace / "study" / "labels-0" / "metrics.jsonl").read_bytes()
    evaluation = "arms.labels={objectives: [{type: cross_entropy}], evaluation.samples: 1}"
    assert run_study("seeds=[0]", evaluation) == 0
    assert [name for name in first if finish_times(workspace)[name] != first[name]] == ["labels-0"]
    assert (workspace / "study" / "labels-0" / "metrics.jsonl").read_bytes() == records


@pytest.mark.usefixtures("in_this_process")
def test_a_stopped_study_continues_to_the_same_tables(
    study_of_one_seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = study_of_one_seed
    assert run_study("seeds=[0]") == 0  # the tables alone
    (workspace / "study").rename(workspace / "whole")

    module = sys.modules["jaxdistill.run.train"]
    train_loop = module.train_loop

    def stop_in_second_run(*arguments, **keywords):
        is_second = (workspace / "study" / "teacher-0" / "result.json").is_file()
        return train_loop(*arguments, **{**keywords, "num_steps": 2} if is_second else keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_loop", stop_in_second_run)
        assert run_study("seeds=[0]") == module.INTERRUPTED_EXIT_CODE
    first = finish_times(workspace)
    assert [*first] == ["teacher-0"]
    assert not (workspace / "study" / "table.md").exists()

    assert run_study("seeds=[0]") == 0
    assert first.items() <= finish_times(workspace).items()
    assert untimed(workspace / "study") == untimed(workspace / "whole")


def test_every_ratio_metric_has_a_better_direction() -> None:
    assert all(QUANTITIES[name].better for name in RATIO_METRICS)


def test_ratio_terms_are_sums_and_weights() -> None:
    scores = [[{"nll": 2.0, "num_bytes": 4, "scored_tokens": 1}] * 3] * 2
    sums, weights = _ratio_terms("bits_per_byte", scores)
    np.testing.assert_allclose(sums / weights, 2 / 4 / np.log(2))
    with pytest.raises(UserError, match="forward_kl was not measured"):
        _ratio_terms("forward_kl", scores)


def test_the_best_arm_is_bold_whether_more_or_less_is_better(workspace: Path) -> None:
    config = study.read(workspace / "study.yaml", ("quantities=[forward_kl,top1_agreement]",))
    results = [
        study.ArmResult(
            arm=arm,
            values={"forward_kl": Estimate(kl, kl, kl), "top1_agreement": Estimate(top, top, top)},
            differences={},
            by_seed={},
            mean_tokens=1.0,
            mean_seconds=1.0,
        )
        for arm, kl, top in [("labels", 2.0, 0.25), ("teacher", 1.0, 0.125)]
    ]
    table = markdown_table(config, results)
    assert "**1.0000 [1.0000, 1.0000]**" in table
    assert "**25.0 % [25.0 %, 25.0 %]**" in table
    assert table.count("**") == 4
