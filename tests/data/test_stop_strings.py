"""Answers that end before a text: their own tokens as far as can be, and an end."""

import json

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdistill.config import load
from jaxdistill.data import DataConfig, GenerationCache, TeacherRollout, prepare
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts.stop_strings import StopStrings
from jaxdistill.data.row_formats import parse_row
from jaxdistill.errors import UserError

READERS = {"byte-level": tiny.tokenizer(vocab_size=300), "sentencepiece": tiny.sentencepiece()}
ROW = parse_row({"prompt": "Q"}, source="r:1", row_id=0, as_chat=False)


def cut(reader, tokens, *texts, row=ROW):
    return StopStrings(texts, Renderer(reader), [reader.eos_token_id]).truncate(row, tokens)


@pytest.mark.parametrize("name", list(READERS))
@settings(deadline=None, max_examples=100)
@given(
    before=st.text(st.sampled_from("abc the cat. 東🙂é"), max_size=12),
    after=st.text(st.sampled_from("\n the cat.🙂"), max_size=8),
)
def test_an_answer_ends_before_the_first(name, before, after):
    reader = READERS[name]
    tokens = reader.encode(f"{before}\n{after}", add_special_tokens=False)
    found = cut(reader, [*tokens, reader.eos_token_id], "Q", "\n")
    if not before.strip():
        assert found == []
        return
    assert found[-1] == reader.eos_token_id
    assert reader.decode(found[:-1]) == before


def test_tokens_before_it_stay_as_they_were_written():
    reader = READERS["byte-level"]
    letters = [token for letter in "the cat sat" for token in reader.encode(letter)]
    tokens = [*letters, *reader.encode(" on\nthe mat")]
    assert len(letters) > len(reader.encode("the cat sat"))
    found = cut(reader, tokens, "\n", "Paris")
    assert found == [*letters, *reader.encode(" on"), reader.eos_token_id]
    assert cut(reader, tokens, "Paris") == tokens


def test_a_token_that_holds_more_is_written_anew():
    reader = READERS["byte-level"]
    (word,) = reader.encode(" cat")
    found = cut(reader, [word], "at")
    assert reader.decode(found) == " c<|im_end|>"


def test_the_end_is_that_of_the_prompt():
    reader = tiny.tokenizer(eos="<|endoftext|>")
    templates = Renderer(reader)
    stop = StopStrings(["\n"], templates, [reader.eos_token_id, templates.end_of_turn_id])
    chat = parse_row({"prompt": "Q"}, source="r:1", row_id=0, as_chat=True)
    tokens = reader.encode("a\nb")
    assert reader.decode(stop.truncate(ROW, tokens)) == "a<|endoftext|>"
    assert reader.decode(stop.truncate(chat, tokens)) == "a<|im_end|>"


def config(folder, **fields):
    path = folder / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rollout = TeacherRollout(**fields)
    return DataConfig(sources=(str(path),), heldout=0.0, rollout=rollout, prompt_template="chat")


def writer(folder, answer, eos_ids=None):
    reader = READERS["byte-level"]

    def generate(prompts, seed, first):
        return [reader.encode(answer(first + n)) for n in range(len(prompts))]

    ends = [reader.eos_token_id] if eos_ids is None else eos_ids
    return GenerationCache(generate=generate, identity="a", eos_ids=ends, directory=folder / "run")


def test_a_rollout_learns_and_keeps_what_is_left(tmp_path):
    reader = READERS["byte-level"]
    cutting = config(tmp_path, stop=("\n",))
    for _ in range(2):  # the second time out of the file
        written = writer(tmp_path, lambda n: " \nno" if n == 0 else "the cat\nsat")
        prepared = prepare(cutting, reader, generation_cache=written)
        assert prepared.counts.dropped_rows == 1
        learned = [reader.decode(e.tokens[e.loss_mask]) for e in prepared.train]
        assert learned == ["the cat<|im_end|>"] * 5
    (file,) = (tmp_path / "run").glob("rollout-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["completion"] for line in lines} == {"", "the cat"}
    assert [line["finished"] for line in lines].count(True) == 5
    again = DataConfig(sources=(str(file),), heldout=0.0)
    assert {tuple(e.tokens) for e in prepare(again, reader).train} == {
        tuple(e.tokens) for e in prepared.train
    }


def test_another_stop_is_another_file_and_none_is_the_old_one(tmp_path):
    names = set()
    for stop in ((), ("\n",), ("\n", ".")):
        rollout = TeacherRollout(stop=stop)
        names.add(json.dumps(rollout._cache_settings()))
    assert len(names) == 3
    assert "stop" not in TeacherRollout()._cache_settings()


def test_what_cannot_stop_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"rollout.stop\[0\]: .*at least 1"):
        load(DataConfig, None, ["sources=a", "rollout={type: teacher, stop: ['']}"])
    endless = writer(tmp_path, lambda n: "a\nb", eos_ids=[])
    with pytest.raises(UserError, match="no token that ends an answer"):
        prepare(config(tmp_path, stop=("\n",)), READERS["byte-level"], generation_cache=endless)
