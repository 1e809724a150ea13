"""Stop strings: completions keep their own tokens before the string, and end there."""

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

TOKENIZERS = {"byte-level": tiny.tokenizer(vocab_size=300), "sentencepiece": tiny.sentencepiece()}
BYTE_LEVEL = TOKENIZERS["byte-level"]
ROW = parse_row({"prompt": "Q"}, source="r:1", row_id=0, as_chat=False)


def truncate(tokenizer, tokens, *strings):
    return StopStrings(strings, Renderer(tokenizer), [tokenizer.eos_token_id]).truncate(ROW, tokens)


@pytest.mark.parametrize("name", list(TOKENIZERS))
@settings(deadline=None, max_examples=100)
@given(
    before=st.text(st.sampled_from("abc the cat. 東🙂é"), max_size=12),
    after=st.text(st.sampled_from("\n the cat.🙂"), max_size=8),
)
def test_a_completion_ends_before_the_first_stop_string(name, before, after):
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(f"{before}\n{after}", add_special_tokens=False)
    truncated = truncate(tokenizer, [*tokens, tokenizer.eos_token_id], "Q", "\n")
    if not before.strip():
        assert truncated == []
        return
    assert truncated[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(truncated[:-1]) == before


def test_tokens_before_the_stop_string_stay_as_generated():
    letters = [token for letter in "the cat sat" for token in BYTE_LEVEL.encode(letter)]
    tokens = [*letters, *BYTE_LEVEL.encode(" on\nthe mat")]
    assert len(letters) > len(BYTE_LEVEL.encode("the cat sat"))
    truncated = truncate(BYTE_LEVEL, tokens, "\n", "Paris")
    assert truncated == [*letters, *BYTE_LEVEL.encode(" on"), BYTE_LEVEL.eos_token_id]
    assert truncate(BYTE_LEVEL, tokens, "Paris") == tokens


def test_a_token_with_text_before_the_stop_string_is_replaced():
    (token,) = BYTE_LEVEL.encode(" cat")
    assert BYTE_LEVEL.decode(truncate(BYTE_LEVEL, [token], "at")) == " c<|im_end|>"


def test_the_end_token_is_that_of_the_prompt_kind():
    tokenizer = tiny.tokenizer(eos="<|endoftext|>")
    renderer = Renderer(tokenizer)
    stop = StopStrings(["\n"], renderer, [tokenizer.eos_token_id, renderer.end_of_turn_id])
    chat = parse_row({"prompt": "Q"}, source="r:1", row_id=0, as_chat=True)
    tokens = tokenizer.encode("a\nb")
    assert tokenizer.decode(stop.truncate(ROW, tokens)) == "a<|endoftext|>"
    assert tokenizer.decode(stop.truncate(chat, tokens)) == "a<|im_end|>"


def make_config(folder, **fields):
    path = folder / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rollout = TeacherRollout(**fields)
    return DataConfig(sources=(str(path),), heldout=0.0, rollout=rollout, prompt_template="chat")


def make_cache(folder, completion, eos_ids=None):
    def generate(prompts, seed, first):
        return [BYTE_LEVEL.encode(completion(first + n)) for n in range(len(prompts))]

    eos_ids = [BYTE_LEVEL.eos_token_id] if eos_ids is None else eos_ids
    return GenerationCache(
        generate=generate, identity="a", eos_ids=eos_ids, directory=folder / "run"
    )


def test_a_rollout_learns_and_stores_the_truncated_completions(tmp_path):
    config = make_config(tmp_path, stop=("\n",))
    for _ in range(2):  # the second time from the file
        cache = make_cache(tmp_path, lambda n: " \nno" if n == 0 else "the cat\nsat")
        prepared = prepare(config, BYTE_LEVEL, generation_cache=cache)
        assert prepared.counts.dropped_rows == 1
        learned = [BYTE_LEVEL.decode(e.tokens[e.loss_mask]) for e in prepared.train]
        assert learned == ["the cat<|im_end|>"] * 5
    (file,) = (tmp_path / "run").glob("rollout-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["completion"] for line in lines} == {"", "the cat"}
    assert [line["finished"] for line in lines].count(True) == 5
    again = DataConfig(sources=(str(file),), heldout=0.0)
    assert {tuple(e.tokens) for e in prepare(again, BYTE_LEVEL).train} == {
        tuple(e.tokens) for e in prepared.train
    }


def test_the_cache_file_depends_on_stop_strings_only_if_there_are_some():
    stops = ((), ("\n",), ("\n", "."))
    assert len({json.dumps(TeacherRollout(stop=stop)._cache_settings()) for stop in stops}) == 3
    assert "stop" not in TeacherRollout()._cache_settings()


def test_empty_stop_strings_and_teachers_without_an_end_token_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"rollout.stop\[0\]: .*at least 1"):
        load(DataConfig, None, ["sources=a", "rollout={type: teacher, stop: ['']}"])
    endless = make_cache(tmp_path, lambda n: "a\nb", eos_ids=[])
    with pytest.raises(UserError, match="no token that ends a completion"):
        prepare(make_config(tmp_path, stop=("\n",)), BYTE_LEVEL, generation_cache=endless)
