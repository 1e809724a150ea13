"""Rows whose teacher is asked something else: the same answer, after another prompt."""

import json

import pytest
from test_beside import READERS, SPANS, check_groups

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


def row(as_chat=False, **fields):
    return parse_row(fields, source="rows:1", row_id=0, as_chat=as_chat)


def said(content):
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
def test_the_teacher_reads_the_same_answer_after_its_own_prompt(
    prompt, completion, teacher_prompt, expected
):
    whole = row(prompt=prompt, completion=completion, teacher_prompt=teacher_prompt)
    read = apply_teacher_prompt(whole)
    assert said(read.content) == expected
    assert read.prompt_key == whole.prompt_key == row(prompt=prompt, completion="else").prompt_key
    if isinstance(read.content, Chat):
        assert read.content.messages[:-1] == tuple(SHOTS)
        assert read.content.first_scored == len(SHOTS)  # what is shown is not learned
    again = with_completion(
        row(prompt=prompt, teacher_prompt=teacher_prompt), expected, is_finished=True
    )
    assert said(again.content) == completion  # and back


def test_a_string_is_a_message_where_prompts_are():
    read = apply_teacher_prompt(row(prompt="Hi", teacher_prompt="Say hi", as_chat=True))
    assert read.content.messages == ({"role": "user", "content": "Say hi"},)
    assert not read.has_completion


def said_tokens(side, reader):
    """The learned tokens that are words, with something in them but spaces."""
    learned = side.tokens[side.loss_mask]
    return [token for token in learned if reader.decode([token], skip_special_tokens=True).strip()]


@pytest.mark.parametrize("alignment", [SPANS, POSITIONS], ids=lambda way: way.by)
@pytest.mark.parametrize("theirs", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize(
    ("prompt", "completion", "teacher_prompt"),
    [
        (PLAIN, " the cat sat", "1 and 1? 2\n" + PLAIN),
        (PLAIN, " the cat sat", SHOTS),
        (CHAT, "the cat sat", SHOTS),
        (CHAT, "the cat sat", PLAIN),
    ],
)
def test_only_the_answer_is_compared(prompt, completion, teacher_prompt, theirs, alignment):
    whole = row(prompt=prompt, completion=completion, teacher_prompt=teacher_prompt)
    (example,), _ = tokenize_rows(
        [whole],
        Renderer(READERS["byte-level"]),
        teacher_view=TeacherView(Renderer(READERS[theirs]), alignment),
        loss_on="completion",
        length=500,
        truncation="cut_end",
    )
    text = READERS[theirs].decode(example.teacher_example.tokens)
    assert ("1 and 1?" in text) == ("1 and 1?" in str(teacher_prompt))
    if alignment == SPANS:
        groups = check_groups(example, "byte-level", theirs)
        compared = b"".join(word for word in groups.values() if word != "a mark").decode()
        # A first word with a space before it on one side alone is not the same word.
        assert "the cat sat".endswith(compared.strip())
        assert compared.strip().endswith("sat")
        assert list(groups.values())[-1] == "a mark"
        return
    sides = (example, READERS["byte-level"]), (example.teacher_example, READERS[theirs])
    sizes = [len(said_tokens(side, reader)) for side, reader in sides]
    assert (example.teacher_example.weight > 0).sum() == min(sizes)  # the n-th beside the n-th


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"text": "a", "teacher_prompt": "b"}, "stands in place of a `prompt`"),
        ({"messages": SHOTS, "teacher_prompt": "b"}, "stands in place of a `prompt`"),
        (
            {"prompt_tokens": [1], "completion_tokens": [2], "teacher_prompt": "b"},
            "stands in place of a `prompt`",
        ),
        ({"prompt": "a", "teacher_prompt": ""}, "`teacher_prompt` is empty"),
        ({"prompt": "a", "teacher_prompt": SHOTS[:3]}, "nothing is asked"),
        ({"prompt": "a", "teacher_prompt": 5}, "`teacher_prompt` is the number 5"),
        ({"prompt": "a", "teacher_prompt": [{}]}, r"`teacher_prompt\[0\]` has keys"),
        (
            {"prompt": CHAT, "completion": [SHOTS[2], SHOTS[3], SHOTS[2]], "teacher_prompt": "b"},
            "an answer of 3 messages",
        ),
        ({"prompts": "a"}, "Did you mean `prompt`"),
    ],
)
def test_what_is_no_prompt_for_a_teacher_is_named(fields, complaint):
    with pytest.raises(UserError, match=f"rows:1: .*{complaint}"):
        row(**fields)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"

    def write(**more):
        lines = [{"prompt": f"{n} and {n}?\nAnswer:", **more} for n in range(8)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return DataConfig(sources=(str(path),), heldout=0.3, rollout=TeacherRollout())

    return write


def writer(folder, asked, reader, answer):
    def generate(prompts, seed, first):
        asked.extend(reader.decode(prompt) for prompt in prompts)
        tokens = reader.encode(answer, add_special_tokens=False)
        return [[*tokens, reader.eos_token_id] for _ in prompts]

    return GenerationCache(
        generate=generate, identity="a", eos_ids=[reader.eos_token_id], directory=folder / "run"
    )


@pytest.mark.parametrize("theirs", ["byte-level", "sentencepiece"])
def test_the_teacher_is_asked_its_own_and_the_student_learns_after_its_prompt(
    tmp_path, rows, theirs
):
    mine, reader, asked = READERS["byte-level"], READERS[theirs], []
    config = rows(teacher_prompt=SHOTS)
    beside = None if theirs == "byte-level" else TeacherView(Renderer(reader), SPANS)
    prepared = prepare(
        config,
        mine,
        generation_cache=writer(tmp_path, asked, reader, "the cat"),
        teacher_view=beside,
    )
    assert len(asked) == 1  # eight students' prompts, one question
    assert "1 and 1?" in asked[0]
    texts = [mine.decode(example.tokens) for example in (*prepared.train, *prepared.heldout)]
    assert sorted(texts) == [f"{n} and {n}?\nAnswer: the cat<|im_end|>" for n in range(8)]
    without = read_split(rows())
    assert [row.prompt_key for row in prepared.split.train] == [
        row.prompt_key for row in without.train
    ]
    assert prepared.split.digest != without.digest
    (file,) = (tmp_path / "run").glob("rollout-*.jsonl")
    assert json.loads(file.read_text())["prompt"] == SHOTS  # what was really asked


def test_another_question_is_asked_anew(tmp_path, rows):
    reader = READERS["byte-level"]
    for more in ({}, {"teacher_prompt": "Be brief."}, {"teacher_prompt": "Be long."}):
        asked = []
        prepare(rows(**more), reader, generation_cache=writer(tmp_path, asked, reader, "a"))
        assert asked == ([more["teacher_prompt"]] if more else asked)
        assert asked


def test_a_tokenizer_without_a_template_is_named_before_a_model_is_loaded(rows):
    bare = TeacherView(Renderer(READERS["byte-level"]), None)
    check_data(rows(teacher_prompt=SHOTS), READERS["byte-level"], bare)
    bare.renderer.tokenizer.chat_template, kept = None, bare.renderer.tokenizer.chat_template
    try:
        with pytest.raises(UserError, match="no chat template, which messages need"):
            check_data(rows(teacher_prompt=SHOTS), READERS["byte-level"], bare)
    finally:
        bare.renderer.tokenizer.chat_template = kept
