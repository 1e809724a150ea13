"""`check --examples`: rows as the models will read them, with what is learned of each."""

import json

import pytest
import tiny

import jaxdistill


@pytest.fixture
def preview(workspace, command):
    """Check the workspace's config with overrides, and return the objects of `--json`."""

    def run(*overrides: str, count: int = 3):
        options = ("config.yaml", *overrides, "--examples", count, "--json")
        code, stdout, stderr = command("check", *options)
        assert code == 0, stderr
        return [json.loads(line) for line in stdout.splitlines()]

    return run


def test_learned_tokens_are_those_of_the_mask(workspace, preview):
    tokenizer = jaxdistill.load(workspace / "teacher").tokenizer
    rows = preview("data.prompt_template=chat")
    assert [row["source"] for row in rows] == [f"rows.jsonl:{n}" for n in (1, 2, 3)]
    for number, row in enumerate(rows):
        assert len(row["tokens"]) == len(row["loss_mask"])
        assert row["text"] == tokenizer.decode(row["tokens"])
        question, answer = f"What is {number} and {number}? ", f"It is {2 * number}."
        assert row["text"] == (
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        )
        learned = [t for t, m in zip(row["tokens"], row["loss_mask"], strict=True) if m]
        assert row["learned_text"] == tokenizer.decode(learned) == f"{answer}<|im_end|>"
        assert row["teacher_tokens"] is row["teacher_text"] is None
        assert (row["cut_tokens"], row["note"]) == (0, "")


def test_held_out_cut_and_dropped_rows_are_named(preview):
    rows = preview(count=100)
    assert len(rows) == 40
    assert 0 < sum(row["heldout"] for row in rows) < 20
    whole = rows[0]
    cut = preview("data.length=12")[0]
    assert cut["tokens"] == whole["tokens"][:13]
    assert cut["cut_tokens"] == len(whole["tokens"]) - 13
    assert whole["learned_text"].startswith(cut["learned_text"])
    lengths = {len(row["tokens"]) for row in rows}
    shortest = f"data.length={min(lengths) - 1}"
    dropped = [row for row in preview(shortest, "data.truncation=drop", count=100) if row["note"]]
    assert 0 < len(dropped) < 40
    assert all(row["tokens"] == [] and row["note"].startswith("dropped:") for row in dropped)


def test_the_teachers_view_stands_beside_it(workspace, preview, other_teacher):
    other = f"teacher.model={other_teacher}"
    (row, *_) = preview(other, "objectives=[{type: uld}]")
    tokenizer = jaxdistill.load(other_teacher).tokenizer
    assert row["teacher_tokens"] == tokenizer(row["teacher_text"].removeprefix("<bos>")).input_ids
    assert row["teacher_text"].startswith("<bos>What is 0 and 0?")
    assert "It is 0." in row["teacher_learned_text"]
    assert len(row["teacher_loss_mask"]) == len(row["teacher_tokens"])
    assert row["learned_text"] == "It is 0.<|im_end|>"


@pytest.mark.slow
def test_completions_of_a_teacher_are_shown_once_they_are_written(workspace, command, preview):
    rollout = "data.rollout={type: teacher, max_new_tokens: 4}"
    before = preview(rollout, "train.steps=1")
    assert {row["note"] for row in before} == {"the teacher writes the completion"}
    assert not any(sum(row["loss_mask"]) for row in before)
    code, _, stderr = command("train", "config.yaml", rollout, "train.steps=1")
    assert code == 0, stderr
    (file,) = (workspace / "run").glob("rollout-*.jsonl")
    written = {
        tuple(line["prompt_tokens"]): line
        for line in map(json.loads, file.read_text().splitlines())
    }
    for prompt, row in zip(before, preview(rollout, "train.steps=1"), strict=True):
        line = written[tuple(prompt["tokens"])]
        assert row["tokens"] == line["prompt_tokens"] + line["completion_tokens"]
        assert sum(row["loss_mask"]) == len(line["completion_tokens"])
    # A line that another process is writing is left as it is.
    torn = file.read_text()[:-5]
    file.write_text(torn)
    after = preview(rollout, "train.steps=1")
    assert [row["note"] for row in after] == [row["note"] for row in before]
    assert file.read_text() == torn


def test_people_read_the_learned_part_between_marks(workspace, command):
    code, stdout, _ = command("check", "config.yaml", "--examples", 1)
    assert code == 0
    assert "objectives" in stdout
    assert "rows.jsonl:1\n" in stdout
    assert "What is 0 and 0? ⟦It is 0.<|im_end|>⟧" in stdout


def test_json_needs_a_number_of_examples(workspace, command):
    code, stdout, stderr = command("check", "config.yaml", "--json")
    assert (code, stdout) == (2, "")
    assert "`--json` prints examples. Say how many: `--examples 3`" in stderr
    assert not (workspace / "run").exists()


def test_calls_of_tools_are_shown_as_they_are_learned(workspace, preview):
    template = (
        "{% if tools %}{{ (tools | tojson) + '\\n' }}{% endif %}{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\\n' + message.content }}"
        "{% for call in message.tool_calls or [] %}{{ '<call>' + (call.function | tojson) }}"
        "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    reads = tiny.tokenizer(chat_template=template)
    tiny.model_folder(workspace / "teacher", num_hidden_layers=3, reads=reads)
    call = {"type": "function", "function": {"name": "sky", "arguments": '{"city": "Oslo"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        "tools": [{"type": "function", "function": {"name": "sky"}}],
    }
    (workspace / "rows.jsonl").write_text(json.dumps(row))
    (shown,) = preview("data.length=250", "data.heldout=0")
    assert shown["text"].startswith('[{"type": "function", "function": {"name": "sky"}}]\n')
    assert shown["learned_text"] == (
        'Let me look.<call>{"name": "sky", "arguments": {"city": "Oslo"}}<|im_end|>'
        "It is sunny.<|im_end|>"
    )
