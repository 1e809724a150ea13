"""Each model is asked in its own words, and ends a completion with every token that it learned."""

import json
import shutil

import numpy as np
import pytest
import tiny

import jaxdistill
from jaxdistill import data, run
from jaxdistill.run.check import inspect, inspect_rows
from jaxdistill.run.rollout import preview_examples

INSTRUCT = tiny.CHATML.replace("<|im_start|>' + message", "<|im_start|>The ' + message").replace(
    "<|im_start|>assistant", "<|im_start|>The assistant"
)
ROLLOUT = "data.rollout={type: teacher, max_new_tokens: 4}"


def write_model(folder, **options):
    """Write a model of the student's vocabulary with another tokenizer object."""
    reads = tiny.tokenizer(**options)
    return tiny.model_folder(
        folder, num_hidden_layers=3, reads=reads, eos_token_id=reads.eos_token_id
    )


def previews(*overrides, count=2):
    return preview_examples(run.check(run.load_config("config.yaml", list(overrides))), count)


@pytest.fixture
def chats(workspace):
    """The workspace with chats, and an instruct model `other` whose template differs."""
    write_model(workspace / "other", chat_template=INSTRUCT)
    assert INSTRUCT != tiny.CHATML
    return ["data.prompt_template=chat", "teacher.model=other"]


def test_a_teacher_of_one_vocabulary_is_asked_in_its_own_template(chats, workspace, command):
    teacher = jaxdistill.load(workspace / "other").tokenizer
    user = {"role": "user", "content": "What is 0 and 0? "}
    answer = {"role": "assistant", "content": "It is 0."}
    row = previews(*chats)[0].to_dict()
    assert row["text"].startswith("<|im_start|>user\n")
    assert row["teacher_text"] == teacher.apply_chat_template([user, answer], tokenize=False)
    assert row["teacher_learned_text"] == row["learned_text"] == "It is 0.<|im_end|>"
    prompt = previews(*chats, ROLLOUT)[0].to_dict()
    assert prompt["teacher_text"] == teacher.apply_chat_template(
        [user], tokenize=False, add_generation_prompt=True
    )
    code, stdout, _ = command("check", "config.yaml", *chats)
    assert code == 0
    assert "the teacher has another chat template; completions are" in " ".join(stdout.split())
    code, _, stderr = command("train", "config.yaml", *chats, "data.heldout=0")
    assert code == 0, stderr
    lines = (workspace / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("train/forward_kl", 0.0) for line in lines]
    assert np.isfinite(losses).all()
    assert max(losses) > 0


def test_templates_that_write_alike_and_plain_rows_need_no_view(chats, workspace):
    tokenizer = tiny.tokenizer(chat_template="{# the same #}" + tiny.CHATML)
    tiny.model_folder(workspace / "same", num_hidden_layers=3, reads=tokenizer)
    for overrides in (["data.prompt_template=chat", "teacher.model=same"], ["teacher.model=other"]):
        config = run.load_config("config.yaml", overrides)
        rows = data.read_split(config.data)
        assert inspect_rows(config, inspect(config), rows).teacher_view is None


def test_a_teacher_that_adds_bos_reads_it(workspace):
    write_model(workspace / "other", bos=True)
    row = previews("teacher.model=other")[0].to_dict()
    assert row["teacher_tokens"][1:] == row["tokens"]
    assert row["teacher_text"].startswith("<s>")


def test_a_student_without_a_template_takes_the_teachers(chats, workspace, command):
    write_model(workspace / "base", chat_template=None, eos="<|endoftext|>")
    student = "student={model: base, layers: 1, gguf_dtype: f16}"
    options = [*chats, student, "data.heldout=0"]
    code, stdout, stderr = command("check", "config.yaml", *options)
    assert code == 0, stderr
    assert "the student has none, and takes the teacher's" in " ".join(stdout.split())
    assert "<|endoftext|> (0), <|im_end|> (2); 1 of them added" in " ".join(stdout.split())
    row = previews(*options)[0].to_dict()
    assert row["text"].startswith("<|im_start|>The user\nWhat is 0 and 0? ")
    assert row["teacher_tokens"] is None
    code, _, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    student = workspace / "run" / "student"
    assert json.loads((student / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    assert jaxdistill.load(student).tokenizer.chat_template == INSTRUCT
    gguf = jaxdistill.load(workspace / "run" / "student.gguf")
    assert gguf.tokenizer.chat_template == INSTRUCT
    assert set(gguf.pretrained.eos_ids) == {0, 2}


def test_a_model_stops_at_the_end_of_a_turn_of_its_template(workspace):
    model = jaxdistill.load(write_model(workspace / "base", eos="<|endoftext|>"))
    assert (model.pretrained.eos_ids, model.eos_ids) == ((0,), (0, 2))
    plain = jaxdistill.load(write_model(workspace / "plain", chat_template=None))
    assert plain.eos_ids == (2,)
    # Plain text that follows every turn ends nothing.
    letters = tiny.CHATML.replace("<|im_end|>", "###")
    assert jaxdistill.load(write_model(workspace / "c", chat_template=letters)).eos_ids == (2,)


@pytest.mark.slow
def test_a_template_with_the_time_renders_one_text_in_all_parts_of_a_run(workspace, command):
    clock = "<|im_start|>system\n{{ strftime_now('%d %H:%M:%S.%f') }}<|im_end|>\n" + tiny.CHATML
    write_model(workspace / "teacher", chat_template=clock)
    options = ["data.prompt_template=chat", ROLLOUT, "data.heldout=0", "train.save_every_steps=2"]
    before = previews(*options)[0].student.text
    assert before != previews(*options)[0].student.text
    assert command("train", "config.yaml", *options)[0] == 0
    (rollout,) = (workspace / "run").glob("rollout-*.jsonl")
    written, texts = rollout.read_bytes(), [row.student.text for row in previews(*options)]
    assert len({text.split("user")[0] for text in texts}) == 1
    for name in ("checkpoints/6", "student"):
        shutil.rmtree(workspace / "run" / name)
    (workspace / "run" / "result.json").unlink()
    code, stdout, stderr = command("train", "config.yaml", *options)
    assert code == 0, stderr
    assert "continues from step 4" in stdout
    assert rollout.read_bytes() == written
    assert [row.student.text for row in previews(*options)] == texts


def test_generate_asks_as_the_run_did(finished_copy, command, monkeypatch):
    asked = []
    monkeypatch.setattr(
        jaxdistill.Model, "generate", lambda *_, chat, **__: asked.append(chat) or ["text"]
    )
    shutil.copytree("run/student", "moved")
    for model in ("run", "run/student", "moved"):
        assert command("generate", "--model", model, "--prompt", "hi")[0] == 0
    assert command("generate", "--model", "run", "--prompt", "hi", "--chat")[0] == 0
    assert asked == [False, False, None, True]


def test_a_cut_start_keeps_bos(workspace):
    write_model(workspace / "bos", bos=True)
    options = ["student={model: bos, layers: 1}", "teacher.model=bos", "data.truncation=cut_start"]
    whole, cut = (previews(*options, f"data.length={n}")[0].to_dict() for n in (48, 8))
    assert len(cut["tokens"]) == 9
    assert cut["tokens"] == whole["tokens"][:1] + whole["tokens"][-8:]
    assert cut["loss_mask"] == (0, 0, *whole["loss_mask"][-7:])


@pytest.mark.slow
def test_a_base_model_that_learned_chats_stops_in_transformers(workspace, command):
    """GPT-2, whose files name `<|endoftext|>` alone, learns the end of ChatML."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reads = tiny.tokenizer(eos="<|endoftext|>")
    shape = {"hidden_size": 32, "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 256}
    for name, seed in (("base", 0), ("other", 1)):
        tiny.model_folder(
            workspace / name, seed=seed, reads=reads, model_type="gpt2", eos_token_id=0, **shape
        )
    chats = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "ok"}]}
        for n in range(40)
    ]
    (workspace / "rows.jsonl").write_text("\n".join(map(json.dumps, chats)))
    options = ["student={model: base}", "teacher.model=other", "train.steps=150", "data.heldout=0"]
    code, _, stderr = command("train", "config.yaml", *options, "objectives.0.weight=0.01")
    assert code == 0, stderr
    folder = workspace / "run" / "student"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        chats[0]["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        output = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    written = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert written == "ok<|im_end|>"
