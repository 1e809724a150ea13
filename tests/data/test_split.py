"""A row's side of the split depends on its prompt and on nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.data import DataConfig, prepare, read_split
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.split import is_heldout
from jaxdistill.errors import UserError
from tests import tiny


def key(fields, as_chat=False):
    return parse_row(fields, source="", row_id=0, as_chat=as_chat).prompt_key


def sides(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_rows = read_split(DataConfig(sources=(str(path),), **{"heldout": 0.3, **fields}))
    return {r.content.prompt for r in read_rows.train}, {
        r.content.prompt for r in read_rows.heldout
    }


def test_order_company_and_answers_change_no_side(tmp_path):
    rows = [{"prompt": f"Question {n}?", "completion": "Yes."} for n in range(200)]
    train, heldout = sides(tmp_path, rows)
    assert not train & heldout
    assert 30 < len(heldout) < 90
    others = [{"prompt": f"Other {n}?", "completion": "No."} for n in range(50)]
    answered_anew = [{**row, "completion": "No."} for row in reversed(rows)]
    train_after, heldout_after = sides(tmp_path, others + answered_anew + rows)
    assert heldout <= heldout_after
    assert train <= train_after
    assert not train_after & heldout_after
    assert sides(tmp_path, rows, heldout_seed=1)[1] != heldout


@given(st.text(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_a_larger_fraction_only_adds(text, one, other, seed):
    small, large = sorted((one, other))
    if is_heldout(text, fraction=small, seed=seed):
        assert is_heldout(text, fraction=large, seed=seed)
    assert not is_heldout(text, fraction=0.0, seed=seed)
    assert is_heldout(text, fraction=1.0, seed=seed)


def test_one_prompt_has_one_key_in_every_shape():
    user = {"role": "user", "content": "Why?"}
    answer = {"role": "assistant", "content": "So."}
    same = {
        key({"prompt": "Why?"}),
        key({"prompt": "Why?", "completion": "So."}),
        key({"prompt": "Why?", "completion": "So."}, as_chat=True),
        key({"content": 0, "messages": [user, answer]}),
        key({"messages": [user]}),
        key({"prompt": [user], "completion": [answer]}),
        key({"prompt": "Why?", "prompt_tokens": [1], "completion_tokens": [2]}),
        key({"prompt": [user], "prompt_tokens": [1], "completion_tokens": [2]}),
    }
    assert len(same) == 1
    # Rows without a prompt go by what they say.
    assert key({"text": "a"}) != key({"text": "b"})
    assert key({"prompt_tokens": [1], "completion_tokens": [2]}) != key(
        {"prompt_tokens": [2], "completion_tokens": [2]}
    )


def test_heldout_sources_stand_in_for_the_fraction(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Held", "completion": "out"}\n')
    rows = [{"prompt": f"{n}", "completion": "x"} for n in range(20)]
    train, heldout = sides(tmp_path, rows, heldout_sources=(str(other),))
    assert len(train) == 20
    assert heldout == {"Held"}


def test_rows_that_ask_what_is_held_out_are_not_trained_on(tmp_path):
    other = tmp_path / "other.jsonl"
    held = [{"messages": [{"role": "user", "content": n}]} for n in ("0", "1", "new")]
    other.write_text("".join(json.dumps(row) + "\n" for row in held))
    rows = [{"prompt": f"{n}", "completion": "x"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(sources=(str(path),), heldout_sources=(str(other),))
    found = read_split(config)
    assert not {row.prompt_key for row in found.train} & {row.prompt_key for row in found.heldout}
    assert str(found) == "18 rows to train on (2 more ask what is held out), 3 held out"
    with pytest.raises(UserError, match=r"data\.heldout_sources: its rows ask what all 20 rows"):
        read_split(DataConfig(sources=(str(path),), heldout_sources=(str(path),)))
    answered = DataConfig(sources=(str(path),), heldout_sources=(_first(tmp_path, rows),))
    prepared = prepare(answered, tiny.tokenizer())
    assert "20 rows, " in str(prepared.train_counts)
    assert str(prepared.train_counts).endswith("1 rows of held-out prompts left out")


def _first(folder, rows):
    (folder / "first.jsonl").write_text(json.dumps(rows[0]))
    return str(folder / "first.jsonl")


def test_nothing_left_to_train_on_is_said(tmp_path):
    with pytest.raises(UserError, match="holds out all 1 rows"):
        sides(tmp_path, [{"prompt": "Why?", "completion": "So."}], heldout=0.999999)
