"""A teacher whose tokenizer is another: it teaches, it answers, and is refused where it must be."""

import json

import numpy as np
import pytest
import tiny

import jaxdistill

QUICK = ["evaluation.every_steps=0", "evaluation.samples=0", "evaluation.speed=false"]
CROSSING = {
    "uld": "{type: uld}",
    "gold": "{type: gold}",
    "gold, within a bound": "{type: gold, k: 20, max_bound: 0.2}",
    "alm, debiased": "{type: alm, debias: 1e-4}",
    "hybrid": "{type: hybrid_kl}",
    "projected": "{type: projected_kl}",
    "mined": "{type: mined}",
    "whole answers": "{type: multi_level_ot}",
    "sinkhorn": "{type: sinkhorn, k: 8, num_iterations: 20}",
}
VARIANTS = {
    "uld, in groups, in part": "{type: uld, align: spans, average: groups, k: 20}",
    "gold, in part": "{type: gold, k: 20, average: groups}",
    "alm": "{type: alm}",
    "hybrid, in part": "{type: hybrid_kl, k: 1}",
    "projected, all pieces": "{type: projected_kl, pieces: 4, temperature: 2.0}",
    "sinkhorn, by embeddings": "{type: sinkhorn, k: 8, num_iterations: 20, cost: embeddings}",
    "sinkhorn, relaxed": "{type: sinkhorn, k: 8, num_iterations: 20, relaxed: 1.0}",
}
ALL = [
    *(pytest.param(one, id=name) for name, one in CROSSING.items()),
    *(pytest.param(one, id=name, marks=pytest.mark.slow) for name, one in VARIANTS.items()),
]


@pytest.fixture
def apart(place):
    """The folder with a second teacher, of other words and another way to write a chat."""
    reader = tiny.sentencepiece()
    tiny.model_folder(
        place / "other", seed=5, reads=reader, vocab_size=len(reader) + 9, eos_token_id=4
    )
    return place


def lines(place):
    return [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ALL)
def test_it_teaches(apart, command, objective):
    options = [f"teacher.model={apart / 'other'}", "train.steps=12", *QUICK]
    code, _, complained = command(
        "train", apart / "config.yaml", *options, f"objectives=[{objective}]"
    )
    assert code == 0, complained
    result = json.loads((apart / "run/result.json").read_text())["comparison"]
    assert 0 < result["teacher"]["bits_per_byte"] < 20
    losses = [line["train/loss"] for line in lines(apart) if "train/loss" in line]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    said = lines(apart)
    bounds = [line[name] for line in said for name in line if name.endswith("_bound")]
    assert bool(bounds) == ("k: " in objective and "sinkhorn" not in objective)
    assert all(0 < bound < 2 for bound in bounds)
    assert jaxdistill.load(apart / "run/student").tokenizer.eos_token == "<|im_end|>"


def test_beside_the_words_themselves(apart, command):
    mixed = "objectives=[{type: uld, align: spans}, {type: cross_entropy, weight: 0.5}]"
    code, _, complained = command(
        "train", apart / "config.yaml", f"teacher.model={apart / 'other'}", mixed
    )
    assert code == 0, complained
    first = next(line for line in lines(apart) if "train/loss" in line)
    total = first["train/uld"] + 0.5 * first["train/cross_entropy"]
    np.testing.assert_allclose(first["train/loss"], total, rtol=1e-5)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_it_writes_the_answers(apart, command, template):
    options = [
        f"teacher.model={apart / 'other'}",
        "objectives=[{type: cross_entropy}]",
        "data.rollout={type: teacher, max_new_tokens: 8}",
        f"data.prompt_template={template}",
    ]
    code, _, complained = command("train", apart / "config.yaml", *options)
    assert code == 0, complained
    (file,) = (apart / "run").glob("rollout-*.jsonl")
    assert len(file.read_text().splitlines()) == 40


def test_what_compares_word_with_word_is_refused_and_what_fits_is_named(apart, command):
    code, _, complained = command(
        "check", apart / "config.yaml", f"teacher.model={apart / 'other'}"
    )
    assert code == 2
    assert "its tokenizer is not the student's" in complained
    for name in ("alm", "gold", "uld"):
        assert name in complained
    for other in ("{type: alm}", "{type: uld, align: spans, average: groups}"):
        both = f"objectives=[{{type: uld}}, {other}]"
        code, _, complained = command(
            "check", apart / "config.yaml", f"teacher.model={apart / 'other'}", both
        )
        assert code == 2
        assert "`positions` (ends) averaged over rows" in complained
        assert "`spans` (ends) averaged over groups" in complained
        assert "Set `align` and `average` alike" in complained
    both = "objectives=[{type: alm}, {type: projected_kl}]"
    other = f"teacher.model={apart / 'other'}"
    code, _, complained = command("check", apart / "config.yaml", other, both)
    assert code == 2
    assert "Where groups meet cannot be set" in complained


def test_a_row_that_only_one_side_can_read_is_counted_or_refused(apart, command):
    rows = (apart / "rows.jsonl").read_text()
    (apart / "rows.jsonl").write_text(
        rows + json.dumps({"prompt": "Why?", "completion": ""}) + "\n"
    )
    options = [f"teacher.model={apart / 'other'}", "objectives=[{type: uld}]", "data.heldout=0"]
    code, printed, complained = command("check", apart / "config.yaml", *options)
    assert code == 0, complained
    assert "1 rows with nothing to compare" in printed
    code, _, complained = command("check", apart / "config.yaml", *options, "data.unpaired=refuse")
    assert code == 2
    assert "rows.jsonl:41: no part of its answer is read by both tokenizers" in complained


@pytest.mark.slow
def test_a_run_in_parts_is_the_whole(apart, command):
    """Neither accumulation nor the shape of the mesh changes a step, or what follows from it.

    Two steps are compared: Adam makes whole steps of what is rounding where a gradient is nearly
    nothing, so that later ones differ by how a machine adds up.
    """
    options = [f"teacher.model={apart / 'other'}", "objectives=[{type: uld, align: spans}]", *QUICK]
    found = {}
    for name, more in {
        "whole": ["train.batch_size=8"],
        "accumulated": ["train.batch_size=8", "train.accumulate=2"],
        "spread": ["train.batch_size=8", "mesh.data=2", "mesh.tensor=2"],
    }.items():
        output = f"output={apart / name}"
        code, _, complained = command("train", apart / "config.yaml", *options, *more, output)
        assert code == 0, complained
        text = (apart / name / "metrics.jsonl").read_text()
        said = [json.loads(line) for line in text.splitlines()]
        first, second, *_ = (line for line in said if "train/uld" in line)
        found[name] = [first[f"train/{part}"] for part in ("uld", "grad_norm", "param_norm")]
        found[name].append(second["train/uld"])
    np.testing.assert_allclose(found["accumulated"], found["whole"], rtol=1e-6)
    np.testing.assert_allclose(found["spread"], found["whole"], rtol=1e-6)


def test_another_tokenizer_of_the_teacher_is_another_run(apart, command):
    options = [f"teacher.model={apart / 'other'}", "objectives=[{type: alm}]"]
    assert command("train", apart / "config.yaml", *options)[0] == 0
    template = apart / "other/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    code, _, complained = command("train", apart / "config.yaml", *options)
    assert code == 2
    assert "the teacher's tokenizer has changed" in complained
