"""Templates that make rows of other fields, and held-out rows that keep their completions."""

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


def test_rows_are_made_from_the_fields_of_the_source(sums):
    rows = read_split(DataConfig(sources=(sums,), fields=FIELDS, heldout=0.0)).train
    assert rows[3].content.prompt == "Question: 3 + 3?\nAnswer:"
    assert rows[3].content.completion == " 6"


def test_an_absent_field_and_a_broken_template_are_named(sums):
    fields = {**FIELDS, "completion": "{answers}"}
    with pytest.raises(UserError) as caught:
        read_split(DataConfig(sources=(sums,), fields=fields))
    (first, *_) = caught.value.lines
    assert "sums.jsonl:1: has no `answers`, which `data.fields` names" in first
    assert first.endswith("it has question, answer. Did you mean `answer`?")
    with pytest.raises(UserError, match="is no template"):
        read_split(DataConfig(sources=(sums,), fields={"text": "{question"}))


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        ({"q": "a", "a": None}, "{a}", "has null as `a`"),
        ({"q": "a", "a": ["x", "y"]}, "{a}", r"`a` is a list, expected text.*`a\[0\]`"),
        ({"q": "a", "a": {"text": "x"}}, "{a}", r"`a` is an object.*`a\[text\]`"),
        ({"q": "a", "a": "x"}, 'Say {"a": 1} {q}', "Write `{{` and `}}` for braces"),
        ({"q": "a", "a": "x"}, "{a:>99999999999}", "without a width or a conversion"),
        ({"q": "a", "a": "x"}, "{a!r} {}", "without a width or a conversion"),
        ({"q": "a", "a": "x"}, "{a.__class__}", "has no `a.__class__`"),
        ({"q": "a", "a": ["x"]}, "{a[1]}", r"has no `a\[1\]`"),
    ],
)
def test_null_lists_and_objects_are_refused(tmp_path, row, template, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    fields = {"prompt": "{q}", "completion": template}
    with pytest.raises(UserError, match=message):
        read_split(DataConfig(sources=(str(path),), fields=fields, heldout=0.0))


def test_a_teacher_prompt_is_kept_or_made_by_a_template(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "a", "a": ["x"], "teacher_prompt": "Answer: a"}))
    for more, expected in (({}, "Answer: a"), ({"teacher_prompt": "Say {q}"}, "Say a")):
        fields = {"prompt": "{q}", "completion": "{a[0]}", **more}
        (row,) = read_split(DataConfig(sources=(str(path),), fields=fields, heldout=0.0)).train
        assert row.teacher_prompt.prompt == expected
        assert row.content.completion == "x"


def test_held_out_rows_may_keep_their_completions(sums, tmp_path):
    prompts = []

    def generate(batch, seed, first):
        prompts.extend(batch)
        return [[10, 11, TOKENIZER.eos_token_id] for _ in batch]

    config = DataConfig(
        sources=(sums,),
        fields=FIELDS,
        heldout=0.3,
        heldout_answers="rows",
        rollout=TeacherRollout(),
    )
    cache = GenerationCache(
        generate=generate, identity="a", eos_ids=[TOKENIZER.eos_token_id], directory=tmp_path
    )
    prepared = prepare(config, TOKENIZER, generation_cache=cache)
    assert len(prompts) == len(prepared.split.train) < 20
    assert all(10 in example.tokens for example in prepared.train)
    by_id = {row.row_id: row for row in prepared.split.heldout}
    for example in prepared.heldout:
        text = TOKENIZER.decode(example.tokens, skip_special_tokens=True)
        assert text.endswith(by_id[example.row_id].content.completion)


def test_held_out_rows_without_completions_cannot_keep_them(sums):
    config = DataConfig(
        sources=(sums,),
        fields={"prompt": "{question}"},
        heldout=0.3,
        heldout_answers="rows",
        rollout=TeacherRollout(),
    )
    with pytest.raises(UserError, match="a prompt without a completion"):
        check_data(config, TOKENIZER)
