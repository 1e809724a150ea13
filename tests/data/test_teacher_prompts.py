"""Rows with a `teacher_prompt`: both models read one completion after different prompts."""

import json

import pytest
from test_teacher_view import SPANS, SPECIAL, TOKENIZERS, check_spans

from jaxdistill import align
from jaxdistill.data import (
    DataConfig,
    GenerationCache,
    TeacherRollout,
    apply_teacher_prompt,
    check_data,
    prepare,
    read_split,
)
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Text, with_completion
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.errors import UserError

POSITIONS = align.AlignmentRule("positions", "rows")
SHOTS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 and 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 and 2?"},
]
PLAIN, CHAT = "2 and 2?\nAnswer:", [{"role": "user", "content": "2 and 2?"}]


def make_row(as_chat=False, **fields):
    return parse_row(fields, source="rows:1", row_id=0, as_chat=as_chat)


def completion_text(content):
    return content.completion if isinstance(content, Text) else content.messages[-1]["content"]


@pytest.mark.parametrize(
    ("prompt", "completion", "teacher_prompt", "expected"),
    [
        (PLAIN, " the cat", "1 and 1? 2\n" + PLAIN, " the cat"),
        (PLAIN, " the cat", SHOTS, "the cat"),
        (CHAT, "the cat", SHOTS, "the cat"),
        (CHAT, "the cat", "Q: 2 and 2?\nA:", " the cat"),
        (CHAT, "the cat", "Q: 2 and 2?\nA:\n", "the cat"),
    ],
)
def test_the_teacher_reads_the_same_completion_after_its_own_prompt(
    prompt, completion, teacher_prompt, expected
):
    row = make_row(prompt=prompt, completion=completion, teacher_prompt=teacher_prompt)
    teacher_row = apply_teacher_prompt(row)
    assert completion_text(teacher_row.content) == expected
    other = make_row(prompt=prompt, completion="else")
    assert teacher_row.prompt_key == row.prompt_key == other.prompt_key
    if isinstance(teacher_row.content, Chat):
        assert teacher_row.content.messages[:-1] == tuple(SHOTS)
        assert teacher_row.content.first_scored == len(SHOTS)  # few-shot examples are not learned
    prompt_only = make_row(prompt=prompt, teacher_prompt=teacher_prompt)
    completed = with_completion(prompt_only, expected, is_finished=True)
    assert completion_text(completed.content) == completion


def test_a_string_prompt_is_a_message_if_prompts_are_chats():
    row = apply_teacher_prompt(make_row(prompt="Hi", teacher_prompt="Say hi", as_chat=True))
    assert row.content.messages == ({"role": "user", "content": "Say hi"},)
    assert not row.has_completion


def learned_text_tokens(side, tokenizer):
    """Return the learned tokens with text other than white space."""
    learned = side.tokens[side.loss_mask]
    decoded = (tokenizer.decode([token], skip_special_tokens=True) for token in learned)
    return [text for text in decoded if text.strip()]


@pytest.mark.parametrize("alignment", [SPANS, POSITIONS], ids=lambda rule: rule.method)
@pytest.mark.parametrize("teacher", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize(
    ("prompt", "completion", "teacher_prompt"),
    [
        (PLAIN, " the cat sat", "1 and 1? 2\n" + PLAIN),
        (PLAIN, " the cat sat", SHOTS),
        (CHAT, "the cat sat", SHOTS),
        (CHAT, "the cat sat", PLAIN),
    ],
)
def test_only_the_completion_is_compared(prompt, completion, teacher_prompt, teacher, alignment):
    row = make_row(prompt=prompt, completion=completion, teacher_prompt=teacher_prompt)
    (example,), _ = tokenize_rows(
        [row],
        Renderer(TOKENIZERS["byte-level"]),
        teacher_view=TeacherView(Renderer(TOKENIZERS[teacher]), alignment),
        loss_on="completion",
        length=500,
        truncation="cut_end",
    )
    text = TOKENIZERS[teacher].decode(example.teacher_example.tokens)
    assert ("1 and 1?" in text) == ("1 and 1?" in str(teacher_prompt))
    if alignment == SPANS:
        spans = list(check_spans(example, "byte-level", teacher).values())
        compared = b"".join(span for span in spans if span != SPECIAL).decode()
        # The first tokens do not match if only one of them includes a space.
        assert "the cat sat".endswith(compared.strip())
        assert compared.strip().endswith("sat")
        assert spans[-1] == SPECIAL
        return
    student_tokens = learned_text_tokens(example, TOKENIZERS["byte-level"])
    teacher_tokens = learned_text_tokens(example.teacher_example, TOKENIZERS[teacher])
    num_compared = (example.teacher_example.weight > 0).sum()
    assert num_compared == min(len(student_tokens), len(teacher_tokens))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "a", "teacher_prompt": "b"}, "stands in place of a `prompt`"),
        ({"messages": SHOTS, "teacher_prompt": "b"}, "stands in place of a `prompt`"),
        (
            {"prompt_tokens": [1], "completion_tokens": [2], "teacher_prompt": "b"},
            "stands in place of a `prompt`",
        ),
        ({"prompt": "a", "teacher_prompt": ""}, "`teacher_prompt` is empty"),
        ({"prompt": "a", "teacher_prompt": SHOTS[:3]}, "nothing is left to complete"),
        ({"prompt": "a", "teacher_prompt": 5}, "`teacher_prompt` is the number 5"),
        ({"prompt": "a", "teacher_prompt": [{}]}, r"`teacher_prompt\[0\]` has keys"),
        (
            {"prompt": CHAT, "completion": [SHOTS[2], SHOTS[3], SHOTS[2]], "teacher_prompt": "b"},
            "a completion of 3 messages",
        ),
        ({"prompts": "a"}, "Did you mean `prompt`"),
    ],
)
def test_an_invalid_teacher_prompt_is_named(fields, message):
    with pytest.raises(UserError, match=f"rows:1: .*{message}"):
        make_row(**fields)


@pytest.fixture
def make_config(tmp_path):
    path = tmp_path / "rows.jsonl"

    def make(**more):
        lines = [{"prompt": f"{n} and {n}?\nAnswer:", **more} for n in range(8)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return DataConfig(sources=(str(path),), heldout=0.3, rollout=TeacherRollout())

    return make


def make_cache(folder, prompts, tokenizer, completion):
    """Return a cache whose teacher always writes `completion`, and records the prompts."""

    def generate(batch, seed, first):
        prompts.extend(tokenizer.decode(prompt) for prompt in batch)
        tokens = tokenizer.encode(completion, add_special_tokens=False)
        return [[*tokens, tokenizer.eos_token_id] for _ in batch]

    return GenerationCache(
        generate=generate, identity="a", eos_ids=[tokenizer.eos_token_id], directory=folder / "run"
    )


@pytest.mark.parametrize("teacher", ["byte-level", "sentencepiece"])
def test_the_teacher_completes_its_own_prompt_and_the_student_learns_after_its_prompt(
    tmp_path, make_config, teacher
):
    student, tokenizer, prompts = TOKENIZERS["byte-level"], TOKENIZERS[teacher], []
    prepared = prepare(
        make_config(teacher_prompt=SHOTS),
        student,
        generation_cache=make_cache(tmp_path, prompts, tokenizer, "the cat"),
        teacher_view=None if tokenizer is student else TeacherView(Renderer(tokenizer), SPANS),
    )
    assert len(prompts) == 1  # eight prompts of the student, one of the teacher
    assert "1 and 1?" in prompts[0]
    texts = [student.decode(example.tokens) for example in (*prepared.train, *prepared.heldout)]
    assert sorted(texts) == [f"{n} and {n}?\nAnswer: the cat<|im_end|>" for n in range(8)]
    without = read_split(make_config())
    keys = [[row.prompt_key for row in split.train] for split in (prepared.split, without)]
    assert keys[0] == keys[1]
    assert prepared.split.digest != without.digest
    (file,) = (tmp_path / "run").glob("rollout-*.jsonl")
    assert json.loads(file.read_text())["prompt"] == SHOTS  # the prompt that the teacher read


def test_another_teacher_prompt_is_completed_anew(tmp_path, make_config):
    tokenizer = TOKENIZERS["byte-level"]
    for more in ({}, {"teacher_prompt": "Be brief."}, {"teacher_prompt": "Be long."}):
        prompts = []
        cache = make_cache(tmp_path, prompts, tokenizer, "a")
        prepare(make_config(**more), tokenizer, generation_cache=cache)
        assert prompts == ([more["teacher_prompt"]] if more else prompts)
        assert prompts


def test_a_missing_chat_template_is_named_before_a_model_is_loaded(make_config):
    config, tokenizer = make_config(teacher_prompt=SHOTS), TOKENIZERS["byte-level"]
    view = TeacherView(Renderer(tokenizer), None)
    check_data(config, tokenizer, view)
    tokenizer.chat_template, template = None, tokenizer.chat_template
    try:
        with pytest.raises(UserError, match="no chat template, which messages need"):
            check_data(config, tokenizer, view)
    finally:
        tokenizer.chat_template = template
