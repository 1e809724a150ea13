"""Every command, from a teacher's files to a student that `transformers` loads."""

import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxdistill
from jaxdistill import data
from jaxdistill.data import DataConfig
from jaxdistill.run.heldout import sample_prompts


def test_a_whole_run(place, command):
    code, printed, complained = command("train", place / "config.yaml")
    assert code == 0, complained
    for line in (
        "KL to the teacher",
        "Bits per byte",
        "Top-1 agreement",
        "Parameters",
        "Seconds to first token",
        "Tokens per second",
    ):
        assert line in printed
    run = place / "run"
    for name in ("config.yaml", "metrics.jsonl", "report/index.html", "student/config.json"):
        assert (run / name).is_file(), name

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    parts = next(line for line in lines if "train/loss" in line)
    mixed = 0.9 * parts["train/forward_kl"] + 0.1 * parts["train/cross_entropy"]
    np.testing.assert_allclose(parts["train/loss"], mixed, rtol=1e-5)
    assert [line["step"] for line in lines if "eval/forward_kl" in line] == [0, 3, 6]

    # What it says at the end is what a separate evaluation of the exported folder says.
    result = json.loads((run / "result.json").read_text())["comparison"]
    assert result["student"]["forward_kl"] < result["student before"]["forward_kl"]
    last = [line for line in lines if "eval/nll" in line][-1]
    assert last["eval/forward_kl"] == pytest.approx(result["student"]["forward_kl"], rel=1e-5)


def test_the_exported_student_is_the_trained_one(place, command):
    assert command("train", place / "config.yaml")[0] == 0
    ours = jaxdistill.load(place / "run" / "student")
    tokens = [ours.tokenizer.encode("What is 3 and 3? It is 6.")]
    expected = np.asarray(ours.logits(np.array(tokens)))[..., : ours.vocab_size]
    for form in ("safetensors", "torch"):
        out = place / form
        code, printed, _ = command(
            "export", "--model", place / "run", "--out", out, "--format", form
        )
        assert (code, printed.strip()) == (0, str(out))
        theirs = AutoModelForCausalLM.from_pretrained(out)
        assert theirs.config.num_hidden_layers == 1
        with torch.no_grad():
            logits = theirs(torch.tensor(tokens)).logits.numpy()
        np.testing.assert_allclose(logits[..., : ours.vocab_size], expected, atol=1e-4)
        assert (
            AutoTokenizer.from_pretrained(out)("What is 3?").input_ids
            == ours.tokenizer("What is 3?").input_ids
        )


def test_an_export_in_bfloat16_is_what_is_measured(place, command):
    heldout = place / "heldout.jsonl"
    heldout.write_text('{"prompt": "What is 50 and 50? ", "completion": "It is 100."}\n' * 3)
    half = ("student.export_dtype=bfloat16", f"data.heldout_sources={heldout}")
    assert command("train", place / "config.yaml", *half)[0] == 0
    exported = jaxdistill.load(place / "run" / "student", dtype=None)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(exported.params)} == {"bfloat16"}

    said = json.loads((place / "run" / "result.json").read_text())["comparison"]["student"]
    _, printed, _ = command(
        "eval", "--model", place / "run", "--data", heldout, "--length", 48, "--json"
    )
    assert json.loads(printed.splitlines()[-1])["nll"] == pytest.approx(said["nll"], rel=1e-5)
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    trained = [json.loads(line) for line in lines if "eval/nll" in line][-1]
    assert trained["eval/nll"] != pytest.approx(said["nll"], rel=1e-5)


def test_a_report_may_be_of_the_student_alone(place, command):
    options = ["evaluation.teacher=false", "evaluation.speed=false"]
    code, _, complained = command("train", place / "config.yaml", *options)
    assert code == 0, complained
    found = json.loads((place / "run/result.json").read_text())["comparison"]
    assert list(found) == ["student before", "student"]
    assert 0 <= found["student"]["digit_accuracy"] <= 1
    assert "tokens_per_second" not in found["student"]


def test_a_batch_is_no_larger_than_the_rows_to_evaluate(place, command):
    rows = ("--model", place / "teacher", "--data", place / "rows.jsonl", "--length", 48, "--json")
    few, many = (
        json.loads(command("eval", *rows, "--batch-size", size)[1].splitlines()[-1])
        for size in (8, 10**9)
    )
    assert few == pytest.approx(many, rel=1e-5)


def test_a_finished_run_is_not_run_again(place, command):
    assert command("train", place / "config.yaml")[0] == 0
    before = (place / "run" / "metrics.jsonl").read_bytes()
    code, printed, _ = command("train", place / "config.yaml")
    assert code == 0
    assert "KL to the teacher" in printed
    assert (place / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_that_is_killed_at_its_end_ends_another_time(place, command, monkeypatch):
    """Its result is the last thing that is written, and no older one stands in for it."""
    module = sys.modules["jaxdistill.run.finish"]

    def killed(*arguments):
        raise KeyboardInterrupt

    for change in ((), ("evaluation.samples=1",)):
        monkeypatch.setattr(module, "_write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            command("train", place / "config.yaml", *change)
        monkeypatch.undo()
        code, _, complained = command("train", place / "config.yaml", *change)
        assert code == 0, complained
        assert (place / "run" / "report" / "index.html").is_file()
        result = json.loads((place / "run" / "result.json").read_text())
        assert len(result["samples"]) == (1 if change else 2)


@pytest.mark.parametrize("name", ["data.sources", "teacher.model"])
def test_a_finished_run_of_other_content_is_not_shown(place, command, name):
    assert command("train", place / "config.yaml")[0] == 0
    if name == "data.sources":
        rows = (place / "rows.jsonl").read_text()
        (place / "rows.jsonl").write_text(rows.replace("It is", "That is"))
    else:
        _retrain(place / "teacher")
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert f"the content of {name} has changed" in complained.replace("student.model and ", "")


def test_a_run_does_not_go_on_under_another_teacher(place, command, monkeypatch):
    _train_until_four(place, command, monkeypatch)
    _retrain(place / "teacher")
    code, _, complained = command("train", place / "config.yaml")
    assert code == 2
    assert "was written with the teacher's weights = " in complained


def _train_until_four(place, command, monkeypatch):
    module = sys.modules["jaxdistill.run.train"]  # the package's `train` is the function
    loop = module.run_loop

    def until_four(*arguments, **keywords):
        return loop(*arguments, **{**keywords, "num_steps": 4})

    monkeypatch.setattr(module, "run_loop", until_four)
    assert command("train", place / "config.yaml")[0] == module.INTERRUPTED_EXIT_CODE
    monkeypatch.undo()


def _retrain(folder):
    """Leaves other weights of the same shapes in the folder."""
    path = folder / "model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(path).items()}, path)


def test_a_run_keeps_more_than_it_exports(place, command):
    half = "student.export_dtype=bfloat16"
    assert command("train", place / "config.yaml", half)[0] == 0
    out = place / "whole"
    assert command("export", "--model", place / "run", "--out", out, "--dtype", "float32")[0] == 0
    whole, rounded = (
        jaxdistill.load(folder).params["embedding"] for folder in (out, place / "run" / "student")
    )
    assert (whole != rounded).any()
    np.testing.assert_array_equal(whole.astype("bfloat16"), rounded)
    # Without its checkpoints it has what it exported.
    shutil.rmtree(place / "run" / "checkpoints")
    again = ["--model", place / "run", "--out", place / "half", "--dtype", "float16"]
    code, _, complained = command("export", *again)
    assert code == 0, complained


def test_more_new_words_than_a_model_reads(place, command):
    asked = ["--model", place / "teacher", "--prompt", "Hi", "--max-new-tokens", "257"]
    code, _, complained = command("generate", *asked)
    assert code == 2
    assert "--max-new-tokens: 257 places are more than the 256" in complained


def test_what_is_asked_is_what_is_shown(place, command):
    turns = [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "content": "Two."},
    ]
    rows = [{"messages": turns}, {"prompt": "Q", "completion": "A long answer to it."}]
    rows += [{"text": "Only a text, which asks nothing at all."}]
    (place / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(sources=(str(place / "asked.jsonl"),), heldout=0.0)
    model = jaxdistill.load(place / "teacher")
    chat, prompt, text = sample_prompts(data.prepare(config, model.tokenizer), model, 3)
    assert chat.text == "Second?"
    asked = model.decode([chat.tokens])[0]
    assert asked.index("First?") < asked.index("One.") < asked.index("Second?")
    assert "Two." not in asked
    assert (prompt.text, model.decode([prompt.tokens])[0].strip()) == ("Q", "Q")
    assert text.text == model.decode([text.tokens])[0]
    assert "Only a text, which asks nothing at all.".startswith(text.text.strip())


def test_brackets_in_a_folder_are_no_markup(place, command):
    code, printed, _ = command("train", place / "config.yaml", f"output={place}/o[v2]/x[/a]")
    assert code == 0
    assert f"student  {place}/o[v2]/x[/a]/student" in printed


def test_a_name_is_text_as_it_stands(place, command):
    out = place / "run #1 ${x}"
    code, _, _ = command("train", place / "config.yaml", f"output={out}", "train.steps=1")
    assert code == 0
    assert (out / "student").is_dir()


def test_an_answer_is_no_longer_than_the_model_reads(place, command):
    arguments = ("generate", "--model", place / "teacher", "--prompt", "Hi", "--no-chat")
    short, long = (command(*arguments, "--max-new-tokens", n)[1] for n in (300, 10**9))
    assert short == long


def test_no_prompt_at_all(place, command, monkeypatch):
    for stdin in (None, io.StringIO("")):
        monkeypatch.setattr(sys, "stdin", stdin)
        code, _, complained = command("generate", "--model", place / "teacher")
        assert code == 2
        assert "there is no prompt" in complained


def test_a_run_that_goes_on_is_the_run_undisturbed(place, command, monkeypatch):
    assert command("train", place / "config.yaml", f"output={place}/whole")[0] == 0
    _train_until_four(place, command, monkeypatch)
    code, printed, _ = command("train", place / "config.yaml")
    assert code == 0
    assert "goes on from step 4 of " in printed

    def untimed(run):
        lines = (place / run / "metrics.jsonl").read_text().splitlines()
        return [
            {name: value for name, value in json.loads(line).items() if "time/" not in name}
            for line in lines
        ]

    assert untimed("run") == untimed("whole")


def test_the_teacher_writes_what_is_learned(place, command):
    rollout = "data.rollout={type: teacher, max_new_tokens: 5, batch_size: 16}"
    code, printed, complained = command("train", place / "config.yaml", rollout)
    assert code == 0, complained
    assert "teacher writes 40/40" in printed
    (written,) = (place / "run").glob("rollout-*.jsonl")
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(rows) == 40
    assert all(1 <= len(row["completion_tokens"]) <= 5 for row in rows)


def test_eval_prints_one_json_object_last(place, command):
    data = ["--data", place / "rows.jsonl", "--length", 48]
    code, printed, _ = command("eval", "--model", place / "teacher", *data, "--json")
    assert code == 0
    alone = json.loads(printed.strip().splitlines()[-1])
    assert {"nll", "bits_per_byte", "perplexity"} <= alone.keys()
    assert alone["perplexity"] == pytest.approx(np.exp(alone["nll"]))

    beside = ["--teacher", place / "teacher", "--json"]
    _, printed, _ = command("eval", "--model", place / "teacher", *data, *beside)
    both = json.loads(printed.strip().splitlines()[-1])
    assert both["nll"] == pytest.approx(alone["nll"])
    assert both["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert both["top1_agreement"] == 1


def test_eval_scores_a_task(place, command):
    (place / "task.yaml").write_text(
        "{prompt: '{question}', prompt_template: chat, reference: answer, metrics: [f1, chrf],"
        " sampling: {max_new_tokens: 6, temperature: 1}, seeds: [0, 1]}"
    )
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)]
    (place / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("--model", place / "teacher", "--task", place / "task.yaml")
    code, printed, _ = command("eval", *arguments, "--data", place / "asked.jsonl", "--json")
    assert code == 0
    values = json.loads(printed.splitlines()[-1])
    assert list(values) == ["f1", "f1_low", "f1_high", "chrf", "chrf_low", "chrf_high"]
    assert values["chrf_low"] <= values["chrf"] <= values["chrf_high"]
    code, _, complained = command("eval", *arguments, "--data", place / "rows.jsonl")
    assert code == 2
    assert "rows.jsonl:1: has no `question`, which the task speaks of" in complained


def test_generate_is_greedy_by_default_and_seeded_otherwise(place, command):
    ask = [
        "generate",
        "--model",
        place / "teacher",
        "--no-chat",
        "--prompt",
        "What is",
        "--seed",
        3,
    ]
    assert command(*ask)[:2] == command(*ask)[:2]
    sampled = [*ask, "--temperature", 1, "--max-new-tokens", 8]
    assert command(*sampled)[:2] == command(*sampled)[:2]


def test_check_says_what_the_run_would_be(place, command):
    code, printed, _ = command("check", place / "config.yaml")
    assert code == 0
    assert "1 layer(s)" in printed
    assert "3 layer(s)" in printed
    assert "0.9 · forward_kl + 0.1 · cross_entropy" in printed
    assert not (place / "run").exists()


def test_the_python_face(place):
    model = jaxdistill.load(place / "teacher")
    assert isinstance(model.generate("What is 1 and 1?", max_new_tokens=4), str)
    answers = model.generate(["What is 1?", "And 2?"], max_new_tokens=4, chat=False)
    assert len(answers) == 2
    assert model.logits([[4, 5, 6]]).shape == (1, 3, model.config.vocab_size)
    again = jaxdistill.load(model.save(place / "copy"))
    assert again.config == model.config
