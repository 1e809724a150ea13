"""Held-out split: the side of a row depends on its prompt alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.data import DataConfig, drop_refused_rows, prepare, read_split
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.split import is_heldout
from jaxdistill.errors import UserError
from tests import tiny


def prompt_key(fields, as_chat=False):
    return parse_row(fields, source="", row_id=0, as_chat=as_chat).prompt_key


def split_prompts(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = read_split(DataConfig(sources=(str(path),), **{"heldout": 0.3, **fields}))
    return tuple({row.content.prompt for row in side} for side in (split.train, split.heldout))


def test_order_other_rows_and_completions_change_no_side(tmp_path):
    rows = [{"prompt": f"Question {n}?", "completion": "Yes."} for n in range(200)]
    train, heldout = split_prompts(tmp_path, rows)
    assert not train & heldout
    assert 30 < len(heldout) < 90
    others = [{"prompt": f"Other {n}?", "completion": "No."} for n in range(50)]
    completed_anew = [{**row, "completion": "No."} for row in reversed(rows)]
    train_after, heldout_after = split_prompts(tmp_path, others + completed_anew + rows)
    assert heldout <= heldout_after
    assert train <= train_after
    assert not train_after & heldout_after
    assert split_prompts(tmp_path, rows, heldout_seed=1)[1] != heldout


@given(st.text(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_a_larger_fraction_only_adds_rows(text, fraction, other, seed):
    small, large = sorted((fraction, other))
    if is_heldout(text, fraction=small, seed=seed):
        assert is_heldout(text, fraction=large, seed=seed)
    assert not is_heldout(text, fraction=0.0, seed=seed)
    assert is_heldout(text, fraction=1.0, seed=seed)


def test_a_prompt_has_the_same_key_in_every_row_format():
    user = {"role": "user", "content": "Why?"}
    assistant = {"role": "assistant", "content": "So."}
    keys = {
        prompt_key({"prompt": "Why?"}),
        prompt_key({"prompt": "Why?", "completion": "So."}),
        prompt_key({"prompt": "Why?", "completion": "So."}, as_chat=True),
        prompt_key({"content": 0, "messages": [user, assistant]}),
        prompt_key({"messages": [user]}),
        prompt_key({"prompt": [user], "completion": [assistant]}),
        prompt_key({"prompt": "Why?", "prompt_tokens": [1], "completion_tokens": [2]}),
        prompt_key({"prompt": [user], "prompt_tokens": [1], "completion_tokens": [2]}),
    }
    assert len(keys) == 1
    # The key of a row without a prompt is its text or its tokens.
    assert prompt_key({"text": "a"}) != prompt_key({"text": "b"})
    assert prompt_key({"prompt_tokens": [1], "completion_tokens": [2]}) != prompt_key(
        {"prompt_tokens": [2], "completion_tokens": [2]}
    )


def test_heldout_sources_replace_the_fraction(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Held", "completion": "out"}\n')
    rows = [{"prompt": f"{n}", "completion": "x"} for n in range(20)]
    train, heldout = split_prompts(tmp_path, rows, heldout_sources=(str(other),))
    assert len(train) == 20
    assert heldout == {"Held"}


def test_rows_with_held_out_prompts_are_not_trained_on(tmp_path):
    other = tmp_path / "other.jsonl"
    held = [{"messages": [{"role": "user", "content": n}]} for n in ("0", "1", "new")]
    other.write_text("".join(json.dumps(row) + "\n" for row in held))
    rows = [{"prompt": f"{n}", "completion": "x"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(sources=(str(path),), heldout_sources=(str(other),))
    split = read_split(config)
    assert not {row.prompt_key for row in split.train} & {row.prompt_key for row in split.heldout}
    assert str(split) == "18 rows to train on (2 more have held-out prompts), 3 held out"
    with pytest.raises(
        UserError, match=r"data\.heldout_sources: its rows have the prompts of all 20"
    ):
        read_split(DataConfig(sources=(str(path),), heldout_sources=(str(path),)))
    first = tmp_path / "first.jsonl"
    first.write_text(json.dumps(rows[0]))
    completed = DataConfig(sources=(str(path),), heldout_sources=(str(first),))
    prepared = prepare(completed, tiny.tokenizer())
    assert "20 rows, " in str(prepared.train_counts)
    assert str(prepared.train_counts).endswith("1 rows of held-out prompts left out")


def test_a_split_without_training_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds out all 1 rows"):
        split_prompts(tmp_path, [{"prompt": "Why?", "completion": "So."}], heldout=0.999999)


@pytest.mark.parametrize("as_prompts", [False, True])
def test_a_conversation_stored_turn_by_turn_is_on_one_side(tmp_path, as_prompts):
    rows = []
    for number in range(200):
        chat = []
        for turn in range(3):
            chat.append({"role": "user", "content": f"{number} {turn}?"})
            answer = {"role": "assistant", "content": f"{number} {turn}."}
            prompted = {"prompt": list(chat), "completion": [answer]}
            chat.append(answer)
            rows.append(prompted if as_prompts else {"messages": list(chat)})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    split = read_split(DataConfig(sources=str(path), heldout=0.1))
    sides = [{row.content.messages[0]["content"] for row in side} for side in
             (split.train, split.heldout)]  # fmt: skip
    assert not sides[0] & sides[1]
    assert 30 < len(split.heldout) < 90
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps(rows[0]))
    split = read_split(DataConfig(sources=str(path), heldout_sources=str(held)))
    assert split.num_overlapping == 3


def test_rows_with_one_example_before_their_question_are_apart(tmp_path):
    example = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    rows = [{"prompt": [*example, {"role": "user", "content": f"{n}"}], "completion": "x"}
            for n in range(200)]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert 5 < len(read_split(DataConfig(sources=str(path), heldout=0.1)).heldout) < 40


def test_chats_that_begin_alike_are_apart(tmp_path):
    opening = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"},
               {"role": "assistant", "content": "Hi!"}]  # fmt: skip
    rows = [{"messages": [*opening, {"role": "user", "content": f"{n}?"},
                          {"role": "assistant", "content": "x"}]} for n in range(200)]  # fmt: skip
    path = tmp_path / "rows.jsonl"

    def heldout(rows):
        path.write_text("\n".join(map(json.dumps, rows)))
        split = read_split(DataConfig(sources=str(path), heldout=0.1))
        return {row.prompt_key for row in split.heldout}

    before = heldout(rows)
    assert 5 < len(before) < 40
    other_answer = {"prompt": opening[:2], "completion": [{"role": "assistant", "content": "Hey."}]}
    assert before <= heldout([*rows, other_answer])


def test_ids_and_white_space_make_no_other_prompt():
    def key(**message):
        return prompt_key({"messages": [{"role": "user", **message}]})

    assert (
        key(content="hi", id="1a") == key(content=" hi\n", id="2b") == prompt_key({"prompt": "hi"})
    )
    assert key(content="hi") != key(content="ho")


def test_bad_rows_are_left_out_with_reasons(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = [{"prompt": f"{n}", "completion": "x"} for n in range(20)]
    alone = {"prompt": "no answer"}
    unknown = {"messages": [{"role": "assist", "content": "x"}]}
    lines = [*map(json.dumps, [*good, alone, unknown]), "{"]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        read_split(DataConfig(sources=str(path)))
    assert len(caught.value.lines) == 2
    config = DataConfig(sources=str(path), heldout=0.3, bad_rows="drop")
    renderer = Renderer(tiny.tokenizer())
    split = drop_refused_rows(config, read_split(config), renderer, None)
    assert [line.split(":")[1] for line in split.bad_rows] == ["22", "23", "21"]
    assert len(split.train) + len(split.heldout) == 20
    counts = str(prepare(config, renderer.tokenizer, split=split).counts)
    assert counts.startswith("23 rows")
    assert counts.endswith("3 bad rows left out")
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_split(config)
