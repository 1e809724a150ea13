"""Commands on tiny models: train, resume, export, eval, generate and check."""

import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxdistill
from jaxdistill import data
from jaxdistill.data import DataConfig
from jaxdistill.run.heldout import sample_prompts


@pytest.mark.smoke
def test_train_records_reports_and_exports(finished_run):
    stdout = (finished_run / "stdout.txt").read_text()
    for line in (
        "KL to the teacher",
        "Bits per byte",
        "Top-1 agreement",
        "Repeated 4-grams",
        "Parameters",
        "Seconds to first token",
        "Tokens per second",
    ):
        assert line in stdout
    run = finished_run / "run"
    for name in ("config.yaml", "metrics.jsonl", "report/index.html", "student/config.json"):
        assert (run / name).is_file(), name

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    first = next(line for line in lines if "train/loss" in line)
    weighted_sum = 0.9 * first["train/forward_kl"] + 0.1 * first["train/cross_entropy"]
    np.testing.assert_allclose(first["train/loss"], weighted_sum, rtol=1e-5)
    rates = [line["train/learning_rate"] for line in lines if "train/loss" in line]
    cosine = 0.01 / 2 * (1 + np.cos(np.pi * np.arange(6) / 6))
    np.testing.assert_allclose(rates, cosine, rtol=1e-5)
    assert [line["step"] for line in lines if "eval/forward_kl" in line] == [0, 3, 6]

    # The last record equals the evaluation of the exported student.
    result = json.loads((run / "result.json").read_text())["comparison"]
    assert result["student"]["forward_kl"] < result["student before"]["forward_kl"]
    last = [line for line in lines if "eval/nll" in line][-1]
    assert last["eval/forward_kl"] == pytest.approx(result["student"]["forward_kl"], rel=1e-5)
    assert all(0 <= result[name]["repeated_4grams"] <= 1 for name in ("student", "teacher"))


def test_exported_student_gives_the_same_logits_in_transformers(
    finished_run, command, tmp_path, monkeypatch
):
    import torch

    monkeypatch.chdir(finished_run)
    student = jaxdistill.load(finished_run / "run" / "student")
    tokens = [student.tokenizer.encode("What is 3 and 3? It is 6.")]
    expected = np.asarray(student.logits(np.array(tokens)))[..., : student.vocab_size]
    for export_format in ("safetensors", "torch"):
        out = tmp_path / export_format
        code, stdout, _ = command(
            "export", "--model", finished_run / "run", "--out", out, "--format", export_format
        )
        assert (code, stdout.strip()) == (0, str(out))
        hf_model = AutoModelForCausalLM.from_pretrained(out)
        assert hf_model.config.num_hidden_layers == 1
        with torch.no_grad():
            logits = hf_model(torch.tensor(tokens)).logits.numpy()
        np.testing.assert_allclose(logits[..., : student.vocab_size], expected, atol=1e-4)
        assert (
            AutoTokenizer.from_pretrained(out)("What is 3?").input_ids
            == student.tokenizer("What is 3?").input_ids
        )


@pytest.fixture(scope="module")
def rounded_run(finish_run):
    """A workspace with a finished run that exports bfloat16, and with its held-out rows."""
    row = '{"prompt": "What is 50 and 50? ", "completion": "It is 100."}\n'
    options = ("student.export_dtype=bfloat16", "data.heldout_sources=heldout.jsonl")
    return finish_run("config.yaml", *options, "evaluation.every_steps=3", heldout=row * 3)


def test_evaluation_uses_the_weights_rounded_for_export(rounded_run, command):
    run = rounded_run / "run"
    exported = jaxdistill.load(run / "student", dtype=None)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(exported.params)} == {"bfloat16"}

    reported_nll = json.loads((run / "result.json").read_text())["comparison"]["student"]["nll"]
    heldout = rounded_run / "heldout.jsonl"
    _, stdout, _ = command("eval", "--model", run, "--data", heldout, "--length", 48, "--json")
    assert json.loads(stdout.splitlines()[-1])["nll"] == pytest.approx(reported_nll, rel=1e-5)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    unrounded = [json.loads(line) for line in lines if "eval/nll" in line][-1]
    assert unrounded["eval/nll"] != pytest.approx(reported_nll, rel=1e-5)


def test_report_without_teacher_and_speed(finished_copy, command):
    """A finished run is evaluated again when only its evaluation changes."""
    options = ["evaluation.teacher=false", "evaluation.speed=false"]
    code, _, stderr = command("train", "full.yaml", *options)
    assert code == 0, stderr
    comparison = json.loads((finished_copy / "run/result.json").read_text())["comparison"]
    assert list(comparison) == ["student before", "student"]
    assert 0 <= comparison["student"]["digit_accuracy"] <= 1
    assert "tokens_per_second" not in comparison["student"]


def test_finished_run_is_printed_and_not_trained_again(finished_copy, command):
    before = (finished_copy / "run" / "metrics.jsonl").read_bytes()
    code, stdout, _ = command("train", "full.yaml")
    assert code == 0
    assert "KL to the teacher" in stdout
    assert (finished_copy / "run" / "metrics.jsonl").read_bytes() == before


def test_run_killed_before_its_result_finishes_later(finished_copy, command, monkeypatch):
    """The result is written last, and the result of an older config does not replace it."""

    def kill(*arguments):
        raise KeyboardInterrupt

    run, options = finished_copy / "run", ("evaluation.samples=1", "evaluation.speed=false")
    shutil.rmtree(run / "report")
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["jaxdistill.run.finish"], "_write_report", kill)
        with pytest.raises(KeyboardInterrupt):
            command("train", "full.yaml", *options)
    code, _, stderr = command("train", "full.yaml", *options)
    assert code == 0, stderr
    assert (run / "report" / "index.html").is_file()
    assert len(json.loads((run / "result.json").read_text())["samples"]) == 1


@pytest.mark.parametrize("name", ["data.sources", "teacher.model"])
def test_finished_run_is_refused_if_its_inputs_changed(finished_copy, command, name):
    if name == "data.sources":
        rows = (finished_copy / "rows.jsonl").read_text()
        (finished_copy / "rows.jsonl").write_text(rows.replace("It is", "That is"))
    else:
        _change_weights(finished_copy / "teacher")
    code, _, stderr = command("train", "full.yaml")
    assert code == 2
    assert f"the content of {name} has changed" in stderr.replace("student.model and ", "")


def test_run_does_not_continue_with_other_teacher_weights(unfinished_copy, command):
    _change_weights(unfinished_copy / "teacher")
    code, _, stderr = command("train", "full.yaml")
    assert code == 2
    assert "was written with the teacher's weights = " in stderr


def _change_weights(folder):
    """Replace the weights in the folder by others of the same shapes."""
    path = folder / "model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(path).items()}, path)


def test_export_in_float32_uses_the_checkpoint(rounded_run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(rounded_run)
    run = shutil.copytree(rounded_run / "run", tmp_path / "run")
    out = tmp_path / "unrounded"
    assert command("export", "--model", run, "--out", out, "--dtype", "float32")[0] == 0
    unrounded, rounded = (
        jaxdistill.load(folder).params["embedding"] for folder in (out, run / "student")
    )
    assert (unrounded != rounded).any()
    np.testing.assert_array_equal(unrounded.astype("bfloat16"), rounded)
    # Without checkpoints, the exported student is all that there is.
    shutil.rmtree(run / "checkpoints")
    arguments = ["--model", run, "--out", tmp_path / "half", "--dtype", "float16"]
    code, _, stderr = command("export", *arguments)
    assert code == 0, stderr


def test_generate_refuses_more_tokens_than_the_model_reads(workspace, command):
    arguments = ["--model", workspace / "teacher", "--prompt", "Hi", "--max-new-tokens", "257"]
    code, _, stderr = command("generate", *arguments)
    assert code == 2
    assert "--max-new-tokens: 257 positions are more than the 256" in stderr


def test_sample_prompts_have_the_text_that_the_model_reads(workspace, command):
    turns = [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "content": "Two."},
    ]
    rows = [{"messages": turns}, {"prompt": "Q", "completion": "A long answer to it."}]
    rows += [{"text": "Only a text, without any prompt at all."}]
    (workspace / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(sources=(str(workspace / "prompts.jsonl"),), heldout=0.0)
    model = jaxdistill.load(workspace / "teacher")
    chat, prompt, text = sample_prompts(data.prepare(config, model.tokenizer), model, 3)
    assert chat.text == "Second?"
    chat_text = model.decode([chat.tokens])[0]
    assert chat_text.index("First?") < chat_text.index("One.") < chat_text.index("Second?")
    assert "Two." not in chat_text
    assert (prompt.text, model.decode([prompt.tokens])[0].strip()) == ("Q", "Q")
    assert text.text == model.decode([text.tokens])[0]
    assert "Only a text, without any prompt at all.".startswith(text.text.strip())


def test_special_characters_in_a_path_are_kept(workspace, command, monkeypatch):
    """Brackets are no markup, and a tilde at the start is the home folder."""
    monkeypatch.setenv("HOME", str(workspace))
    name = "o[v2]/run #1 ${x}/x[/a]"
    code, stdout, _ = command("train", "config.yaml", f"output=~/{name}")
    assert code == 0
    assert f"student  {workspace}/{name}/student" in stdout
    assert (workspace / name / "student" / "config.json").is_file()


def test_generate_without_a_prompt_is_refused(workspace, command, monkeypatch):
    for stdin in (None, io.StringIO("")):
        monkeypatch.setattr(sys, "stdin", stdin)
        code, _, stderr = command("generate", "--model", workspace / "teacher")
        assert code == 2
        assert "there is no prompt" in stderr


@pytest.mark.smoke
def test_continued_run_equals_an_undisturbed_run(finished_run, workspace, command, monkeypatch):
    module = sys.modules["jaxdistill.run.train"]  # the package's `train` is the function
    train_loop = module.train_loop

    def train_four_steps(*arguments, **keywords):
        return train_loop(*arguments, **{**keywords, "num_steps": 4})

    arguments = ("train", "full.yaml", "evaluation.samples=0", "evaluation.speed=false")
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_loop", train_four_steps)
        assert command(*arguments)[0] == module.INTERRUPTED_EXIT_CODE
    code, stdout, _ = command(*arguments)
    assert code == 0
    assert "continues from step 4 of " in stdout

    def records_without_times(folder):
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        return [
            {name: value for name, value in json.loads(line).items() if "time/" not in name}
            for line in lines
        ]

    assert records_without_times(workspace) == records_without_times(finished_run)


def test_teacher_rollout_writes_all_completions(workspace, command):
    rollout = "data.rollout={type: teacher, max_new_tokens: 8, batch_size: 16}"
    code, stdout, stderr = command("train", workspace / "config.yaml", rollout)
    assert code == 0, stderr
    assert "teacher writes 40/40" in stdout
    (rollout_file,) = (workspace / "run").glob("rollout-*.jsonl")
    rows = [json.loads(line) for line in rollout_file.read_text().splitlines()]
    assert len(rows) == 40
    assert all(1 <= len(row["completion_tokens"]) <= 8 for row in rows)


def test_eval_prints_one_json_object_last(workspace, command):
    data = ["--data", workspace / "rows.jsonl", "--length", 48]
    code, stdout, _ = command("eval", "--model", workspace / "teacher", *data, "--json")
    assert code == 0
    alone = json.loads(stdout.strip().splitlines()[-1])
    assert {"nll", "bits_per_byte", "perplexity"} <= alone.keys()
    assert alone["perplexity"] == pytest.approx(np.exp(alone["nll"]))

    # A batch is no larger than the number of rows.
    _, stdout, _ = command(
        "eval", "--model", workspace / "teacher", *data, "--json", "--batch-size", 10**9
    )
    assert json.loads(stdout.splitlines()[-1]) == pytest.approx(alone, rel=1e-5)

    teacher = ["--teacher", workspace / "teacher", "--json"]
    _, stdout, _ = command("eval", "--model", workspace / "teacher", *data, *teacher)
    both = json.loads(stdout.strip().splitlines()[-1])
    assert both["nll"] == pytest.approx(alone["nll"])
    assert both["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert both["top1_agreement"] == 1
    assert both["acceptance"] == pytest.approx(1)

    _, stdout, _ = command(
        "eval", "--model", workspace / "teacher", *data, *teacher, "--by-position", 8
    )
    by_position = json.loads(stdout.splitlines()[-1])
    starts = sorted(int(name.split("@")[1]) for name in by_position if name.startswith("nll@"))
    assert len(starts) > 1
    assert all(start % 8 == 0 for start in starts)
    lowest, highest = (fold(by_position[f"nll@{start}"] for start in starts) for fold in (min, max))
    assert lowest < both["nll"] < highest
    assert all(f"forward_kl@{start}" in by_position for start in starts)


def test_eval_scores_a_task(workspace, command):
    (workspace / "task.yaml").write_text(
        "{prompt: '{question}', prompt_template: chat, reference: answer, metrics: [f1, chrf],"
        " sampling: {max_new_tokens: 6, temperature: 1}, seeds: [0, 1]}"
    )
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)]
    (workspace / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("--model", workspace / "teacher", "--task", workspace / "task.yaml")
    code, stdout, _ = command("eval", *arguments, "--data", workspace / "prompts.jsonl", "--json")
    assert code == 0
    values = json.loads(stdout.splitlines()[-1])
    assert list(values) == ["f1", "f1_low", "f1_high", "chrf", "chrf_low", "chrf_high"]
    assert values["chrf_low"] <= values["chrf"] <= values["chrf_high"]
    code, _, stderr = command("eval", *arguments, "--data", workspace / "rows.jsonl")
    assert code == 2
    assert "rows.jsonl:1: has no `question`, which the task names" in stderr


def test_generate_is_greedy_by_default_and_otherwise_seeded(workspace, command):
    arguments = ("generate", "--model", workspace / "teacher", "--prompt", "Hi", "--no-chat")
    # Prompt and completion together would exceed the 256 positions: it ends before.
    first, second = (command(*arguments, "--seed", n, "--max-new-tokens", 256) for n in (1, 2))
    assert first[0] == 0, first[2]
    assert first[:2] == second[:2]
    sampled = (*arguments, "--temperature", 1, "--max-new-tokens", 8, "--seed")
    first, again, other = (command(*sampled, seed)[1] for seed in (3, 3, 4))
    assert first == again != other


def test_check_prints_facts_and_creates_nothing(workspace, command):
    code, stdout, _ = command("check", workspace / "config.yaml")
    assert code == 0
    assert "1 layer(s)" in stdout
    assert "3 layer(s)" in stdout
    assert "0.9 · forward_kl + 0.1 · cross_entropy" in stdout
    assert not (workspace / "run").exists()


def test_python_api_generates_and_saves(workspace):
    model = jaxdistill.load(workspace / "teacher")
    assert isinstance(model.generate("What is 1 and 1?", max_new_tokens=4), str)
    completions = model.generate(["What is 1?", "And 2?"], max_new_tokens=4, chat=False)
    assert len(completions) == 2
    assert model.logits([[4, 5, 6]]).shape == (1, 3, model.language_model.vocab_size)
    reloaded = jaxdistill.load(model.save(workspace / "copy"))
    assert reloaded.language_model == model.language_model
