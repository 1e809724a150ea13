"""A study from its YAML to its tables: two arms, two seeds, runs of seconds."""

import csv
import json
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


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch):
    """Trains the runs of a study here, where JAX is there already."""
    monkeypatch.setattr(ProcessRunner, "run", lambda self, command: main(command[3:]))
    monkeypatch.setattr(sys.modules["jaxdistill.run.train"], "use_compilation_cache", lambda: None)


def trained(place: Path, *changes: str) -> int:
    """Runs the study on as many devices as the tests have."""
    path, size = place / "study.yaml", "common={train.steps: 4, train.batch_size: 4}"
    return study.run(study.read(path, (size, *changes)), path)


def ends(place: Path) -> dict[str, int]:
    """When each finished run was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in place.glob("study/*/result.json")}


@pytest.mark.usefixtures("in_this_process")
def test_a_study_ends_in_tables(place: Path) -> None:
    assert trained(place) == 0

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
        ("train.steps=5", "field of the runs. Write `train.steps: 5` under `common`"),
        ("baseline=word", "baseline: 'word' is not one of the arms .*Did you mean `words`"),
        ("quantities=[forward_k]", "'forward_k' is not one of .*Did you mean `forward_kl`"),
        ("quantities=[perplexity]", "'perplexity' is not one of nll"),
        ("run=other.yaml", r"^\S+other.yaml: no such config file"),
        ("arms.words={train.step: 1}", "arm `words`, seed 1: .*Did you mean `steps`"),
        ("arms={}", "at least 1"),
        ("seeds=[]", "at least 1"),
        ("seeds=[1, 1]", r"seeds: \[1, 1\] names one twice"),
        ("arms.words={seed: 7}", "arms.words.seed: .* the study's `seeds` instead"),
        ("common={output: here}", "common.output: .* the study's `output` instead"),
        ("arms={a/b: {}}", "pattern"),
    ],
)
def test_mistakes_are_told_before_anything_runs(place: Path, change: str, said: str) -> None:
    path = place / "study.yaml"
    with pytest.raises(UserError, match=said):
        study.run(study.read(path, (change,)), path)
    assert not (place / "study").exists()


def test_arms_that_do_not_suit_their_teacher_are_told_before_anything_runs(place: Path) -> None:
    reader = tiny.sentencepiece()
    tiny.model_folder(place / "other", reads=reader, vocab_size=len(reader))
    path, other = place / "study.yaml", place / "other"
    for change, said in (
        (f"arms.words={{teacher.model: {other}}}", "arm `words`: .*forward_kl compares token"),
        ("arms.words={teacher: null}", "arm `words`: .*`forward_kl` needs teacher_logits"),
        ("arms.words={teacher.model: nowhere}", "arm `words`: nowhere: "),
    ):
        with pytest.raises(UserError, match=said):
            study.run(study.read(path, (change,)), path)
        assert not (place / "study").exists()


@pytest.mark.usefixtures("in_this_process")
def test_only_what_is_new_is_trained(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert trained(place, "seeds=[0]") == 0
    first = ends(place)
    assert sorted(first) == ["teacher-0", "words-0"]

    later = "arms.both={objectives: [{type: forward_kl}, {type: cross_entropy}]}"
    assert trained(place, "seeds=[0]", later) == 0
    assert sorted(ends(place)) == ["both-0", "teacher-0", "words-0"]
    assert first.items() <= ends(place).items()
    table = (place / "study" / "table.md").read_text()
    assert "| both |" in table

    # An arm that would be trained otherwise is refused, and what it was stays.
    changed = "arms.words={objectives: [{type: reverse_kl}]}"
    with pytest.raises(UserError, match="arm `words`, seed 0: the run ended with exit code 2"):
        trained(place, "seeds=[0]", changed)
    said = capfd.readouterr().err
    assert "was written with objectives" in said
    assert "choose another run folder" in said
    assert first.items() <= ends(place).items()
    assert (place / "study" / "table.md").read_text() == table

    # One that is only measured otherwise is measured again, and not trained.
    records = (place / "study" / "words-0" / "metrics.jsonl").read_bytes()
    measured = "arms.words={objectives: [{type: cross_entropy}], evaluation.samples: 1}"
    assert trained(place, "seeds=[0]", measured) == 0
    assert [name for name in first if ends(place)[name] != first[name]] == ["words-0"]
    assert (place / "study" / "words-0" / "metrics.jsonl").read_bytes() == records


@pytest.mark.usefixtures("in_this_process")
def test_a_study_that_was_stopped_goes_on_to_the_same_tables(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(place, "seeds=[0]", f"output={place / 'whole'}") == 0

    module = sys.modules["jaxdistill.run.train"]
    loop = module.run_loop

    def stopped_in_its_second_run(*arguments, **keywords):
        is_second = (place / "study" / "teacher-0" / "result.json").is_file()
        return loop(*arguments, **{**keywords, "num_steps": 2} if is_second else keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_loop", stopped_in_its_second_run)
        assert trained(place, "seeds=[0]") == module.INTERRUPTED_EXIT_CODE
    first = ends(place)
    assert [*first] == ["teacher-0"]
    assert not (place / "study" / "table.md").exists()

    assert trained(place, "seeds=[0]") == 0
    assert first.items() <= ends(place).items()
    assert untimed(place / "study") == untimed(place / "whole")


def test_every_ratio_has_a_label_and_a_better_side() -> None:
    assert all(QUANTITIES[name].better for name in RATIO_METRICS)


def test_a_ratio_is_of_sums() -> None:
    runs = [[{"nll": 2.0, "num_bytes": 4, "scored_tokens": 1}] * 3] * 2
    sums, weights = _ratio_terms("bits_per_byte", runs)
    np.testing.assert_allclose(sums / weights, 2 / 4 / np.log(2))
    with pytest.raises(UserError, match="forward_kl was not measured"):
        _ratio_terms("forward_kl", runs)


def test_the_best_is_bold_whichever_way_is_better(place: Path) -> None:
    config = study.read(place / "study.yaml", ("quantities=[forward_kl,top1_agreement]",))
    found = [
        study.ArmResult(
            arm=arm,
            values={"forward_kl": Estimate(kl, kl, kl), "top1_agreement": Estimate(top, top, top)},
            differences={},
            by_seed={},
            mean_tokens=1.0,
            mean_seconds=1.0,
        )
        for arm, kl, top in [("words", 2.0, 0.25), ("teacher", 1.0, 0.125)]
    ]
    table = markdown_table(config, found)
    assert "**1.0000 [1.0000, 1.0000]**" in table
    assert "**25.0 % [25.0 %, 25.0 %]**" in table
    assert table.count("**") == 4
