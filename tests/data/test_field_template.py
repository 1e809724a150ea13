"""Rows that call their parts otherwise, and held-out rows that keep their answers."""

import json

import pytest

from jaxdistill.data import (
    DataConfig,
    GenerationCache,
    TeacherRollout,
    check_data,
    prepare,
    read_split,
)
from jaxdistill.errors import UserError
from tests import tiny

TOKENIZER = tiny.tokenizer()
FIELDS = {"prompt": "Question: {question}\nAnswer:", "completion": " {answer}"}


@pytest.fixture
def sums(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{n} + {n}?", "answer": f"{2 * n}"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_parts_are_made_of_what_a_source_has(sums):
    rows = read_split(DataConfig(sources=(sums,), fields=FIELDS, heldout=0.0)).train
    assert rows[3].content.prompt == "Question: 3 + 3?\nAnswer:"
    assert rows[3].content.completion == " 6"


def test_what_a_row_lacks_is_named(sums):
    fields = {**FIELDS, "completion": "{answers}"}
    with pytest.raises(UserError) as caught:
        read_split(DataConfig(sources=(sums,), fields=fields))
    (first, *_) = caught.value.lines
    assert "sums.jsonl:1: has no `answers`, which `data.fields` speaks of" in first
    assert first.endswith("it has question, answer. Did you mean `answer`?")
    with pytest.raises(UserError, match="is no template"):
        read_split(DataConfig(sources=(sums,), fields={"text": "{question"}))


@pytest.mark.parametrize(
    ("row", "template", "said"),
    [
        ({"q": "a", "a": None}, "{a}", "has no `a`"),
        ({"q": "a", "a": ["x", "y"]}, "{a}", r"`a` is a list, and no text.*`a\[0\]`"),
        ({"q": "a", "a": {"text": "x"}}, "{a}", r"`a` is an object.*`a\[text\]`"),
        ({"q": "a", "a": "x"}, 'Say {"a": 1} {q}', "Write `{{` and `}}` for braces"),
    ],
)
def test_what_is_no_text_is_not_made_one(tmp_path, row, template, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    fields = {"prompt": "{q}", "completion": template}
    with pytest.raises(UserError, match=said):
        read_split(DataConfig(sources=(str(path),), fields=fields, heldout=0.0))


def test_a_prompt_for_the_teacher_stays_or_is_made_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "a", "a": ["x"], "teacher_prompt": "Answer: a"}))
    for more, expected in (({}, "Answer: a"), ({"teacher_prompt": "Say {q}"}, "Say a")):
        fields = {"prompt": "{q}", "completion": "{a[0]}", **more}
        (row,) = read_split(DataConfig(sources=(str(path),), fields=fields, heldout=0.0)).train
        assert row.teacher_prompt.prompt == expected
        assert row.content.completion == "x"


def test_held_out_rows_may_keep_their_answers(sums, tmp_path):
    asked = []

    def generate(prompts, seed, first):
        asked.extend(prompts)
        return [[10, 11, TOKENIZER.eos_token_id] for _ in prompts]

    config = DataConfig(
        sources=(sums,),
        fields=FIELDS,
        heldout=0.3,
        heldout_answers="rows",
        rollout=TeacherRollout(),
    )
    writer = GenerationCache(
        generate=generate, identity="a", eos_ids=[TOKENIZER.eos_token_id], directory=tmp_path
    )
    prepared = prepare(config, TOKENIZER, generation_cache=writer)
    assert len(asked) == len(prepared.split.train) < 20
    assert all(10 in example.tokens for example in prepared.train)
    by_id = {row.row_id: row for row in prepared.split.heldout}
    for example in prepared.heldout:
        said = TOKENIZER.decode(example.tokens, skip_special_tokens=True)
        assert said.endswith(by_id[example.row_id].content.completion)


def test_held_out_rows_without_answers_cannot_keep_them(sums):
    config = DataConfig(
        sources=(sums,),
        fields={"prompt": "{question}"},
        heldout=0.3,
        heldout_answers="rows",
        rollout=TeacherRollout(),
    )
    with pytest.raises(UserError, match="a prompt without an answer"):
        check_data(config, TOKENIZER)
