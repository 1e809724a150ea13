"""Tokenizers of GGUF files: llama.cpp's rules, each with the value that llama.cpp gives."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny
from gguf_files import byte_level_metadata, sentencepiece_metadata, write_gguf

from jaxdistill import hub
from jaxdistill.align import tokenizer_difference
from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_pre_tokenizers import pre_tokenizer_rule
from jaxdistill.hub.gguf_special_tokens import special_token_ids
from jaxdistill.hub.gguf_tokenizer import build_gguf_tokenizer


def build(metadata: dict[str, Any]) -> Any:
    return build_gguf_tokenizer(Path("model.gguf"), metadata)


def refusal(metadata: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        build(metadata)
    assert caught.value.lines[0].startswith("model.gguf: ")
    return caught.value.lines[0]


@pytest.mark.parametrize(
    ("pre", "adds_bos"),
    [
        ("llama-bpe", True),
        ("falcon3", True),
        ("tekken", True),
        ("smaug-bpe", False),
        ("qwen2", False),
        ("gpt-2", False),
        ("default", False),
    ],
)
def test_the_pre_tokenizer_decides_whether_bos_is_added(pre: str, adds_bos: bool) -> None:
    metadata = byte_level_metadata(pre=pre, bos_token_id=3)
    assert (build(metadata)("the cat").input_ids[0] == 3) is adds_bos
    for flag in (True, False):
        ids = build({**metadata, "tokenizer.ggml.add_bos_token": flag})("the cat").input_ids
        assert (ids[0] == 3) is flag
    without_id = byte_level_metadata(pre=pre)
    assert build(without_id)("the cat").input_ids[0] != 3


def test_llama3_names_keep_whole_words() -> None:
    names = ("llama-bpe", "pixtral", "lfm2", "tekken", "qwen2", "smaug-bpe", "gpt-2")
    whole = [name for name in names if pre_tokenizer_rule(name).ignores_merges]
    assert whole == ["llama-bpe", "pixtral", "lfm2", "tekken"]


def test_an_unknown_pre_tokenizer_is_refused() -> None:
    line = refusal(byte_level_metadata(pre="qwen"))
    assert "tokenizer.ggml.pre: `qwen` is not one of" in line
    assert "Did you mean `qwen2`?" in line
    assert "Hugging Face folder" in line


def test_a_file_without_pre_tokenizer_is_split_by_llama_cpps_default() -> None:
    metadata = byte_level_metadata(pre=None)
    pieces = build(metadata).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12345 == 'tis")
    assert [text for text, _ in pieces] == ["a", "Ġ", "123", "45", "Ġ", "==", "Ġ", "'", "tis"]


def test_control_tokens_keep_their_ids_whatever_their_letters() -> None:
    """DeepSeek-R1-Distill's tokens have letters outside the byte alphabet."""
    names = ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
    metadata = byte_level_metadata(pre="deepseek-r1-qwen", extra=names)
    begin = len(metadata["tokenizer.ggml.tokens"]) - len(names)
    metadata |= {"tokenizer.ggml.bos_token_id": begin, "tokenizer.ggml.eos_token_id": begin + 3}
    tokenizer = build(metadata)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (begin, begin + 3)
    assert len(tokenizer) == begin + 4
    text = "".join(names[:2]) + "hi" + names[2]
    ids = tokenizer(text).input_ids
    assert (ids[:2], ids[-1]) == ([begin, begin + 1], begin + 2)
    assert tokenizer.decode(ids) == text


def test_tokens_that_end_a_turn_are_control_tokens_whatever_their_type() -> None:
    metadata = byte_level_metadata(extra=("<|eot_id|>",), kind=gguf.TokenType.NORMAL)
    tokenizer = build(metadata)
    assert tokenizer("hi<|eot_id|>").input_ids[-1] == 320
    assert tokenizer.decode([320], skip_special_tokens=True) == ""


def test_unused_tokens_are_no_tokens(tmp_path: Path) -> None:
    folder = tiny.model_folder(tmp_path / "folder")
    path = write_gguf("llama", tmp_path / "model.gguf", pre="gpt-2")
    ours, theirs = hub.load(path), hub.load(folder)
    assert ours.tokenizer is not None
    assert theirs.tokenizer is not None
    assert tokenizer_difference(ours.tokenizer, theirs.tokenizer) is None
    assert ours.vocab_size == theirs.vocab_size == 320
    assert ours.language_model.vocab_size == 336


def test_user_defined_tokens_are_whole_in_text() -> None:
    metadata = byte_level_metadata(extra=("<think>", "   "), kind=gguf.TokenType.USER_DEFINED)
    end = len(metadata["tokenizer.ggml.tokens"])
    tokenizer = build(metadata)
    assert tokenizer("<think>   ").input_ids == [end - 2, end - 1]
    assert tokenizer.decode([end - 2, end - 1], skip_special_tokens=True) == "<think>   "


@pytest.mark.parametrize("prefix", [None, True, False])
def test_sentencepiece_text_after_a_special_token_has_the_prefix_space(prefix: bool | None) -> None:
    changes: dict[str, Any] = (
        {} if prefix is None else {"add_space_prefix": prefix, "add_bos_token": False}
    )
    tokenizer = build(sentencepiece_metadata(**changes))
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(" the</s>the").input_ids)
    start = ["<s>"] if prefix is None else []
    if prefix is False:
        assert pieces == ["▁the", "</s>", "t", "he"]
    else:
        assert pieces == [*start, "▁", "▁the", "</s>", "▁the"]
    assert tokenizer.decode(tokenizer("the cat", add_special_tokens=False).input_ids) == "the cat"


def test_runs_of_spaces_are_user_defined_tokens_without_a_prefix() -> None:
    metadata = sentencepiece_metadata(
        add_space_prefix=False, add_bos_token=False, spaces=("  ", "   ")
    )
    tokenizer = build(metadata)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a     the").input_ids)
    assert pieces == ["a", "▁▁▁", "▁▁", "t", "he"]
    assert tokenizer.decode(tokenizer("a     the").input_ids) == "a     the"


def test_sentencepiece_ids_have_llama_cpps_defaults() -> None:
    metadata = sentencepiece_metadata()
    for name in ("bos", "eos", "unknown"):
        del metadata[f"tokenizer.ggml.{name}_token_id"]
    tokenizer = build(metadata)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("a").input_ids[0] == 1
    assert special_token_ids(metadata)["eos_token_id"] == 2


@pytest.mark.parametrize(
    ("ids", "extra", "expected"),
    [
        ({"eos": 3}, (), [3, 0, 2]),
        ({"eos": 0, "eot": 2}, (), [0, 2]),
        ({"eos": 3, "eot": 1, "eom": 5}, (), [3, 1, 5, 0, 2]),
        ({"eos": 2}, ("<|eot_id|>", "<end_of_turn>"), [2, 0, -2, -1]),
    ],
)
def test_all_tokens_that_end_a_generation_are_read(
    ids: dict[str, int], extra: tuple[str, ...], expected: list[int]
) -> None:
    keys: dict[str, Any] = {f"{name}_token_id": token_id for name, token_id in ids.items()}
    metadata = byte_level_metadata(extra=extra, **keys)
    size = len(metadata["tokenizer.ggml.tokens"])
    assert special_token_ids(metadata)["eos_token_id"] == [
        token_id % size if token_id < 0 else token_id for token_id in expected
    ]


def test_text_that_only_looks_like_eos_ends_no_generation() -> None:
    """Gemma has a token for the HTML tag `</s>`."""
    normal = byte_level_metadata(extra=("</s>",), kind=gguf.TokenType.USER_DEFINED)
    assert special_token_ids(normal)["eos_token_id"] == [2, 0]
    control = byte_level_metadata(extra=("</s>",))
    assert special_token_ids(control)["eos_token_id"] == [2, 0, 320]


def test_the_ids_that_end_a_generation_are_exported(tmp_path: Path) -> None:
    model = hub.load(write_gguf("llama", tmp_path / "model.gguf"))
    assert model.eos_ids == (2, 0)
    assert model.tokenizer is not None
    assert model.tokenizer.eos_token_id == 2
    assert hub.load(hub.save(model, tmp_path / "folder")).eos_ids == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bos_token_id": 400}, "bos_token_id: 400 is no token; the file has 320"),
        ({"eos_token_id": "x"}, "eos_token_id: 'x' is no token"),
        ({"unknown_token_id": -1}, "unknown_token_id: -1 is no token"),
        ({"model": "t5"}, "model: `t5` is not one of gpt2, llama"),
        ({"model": "none"}, "the file has no tokenizer"),
        ({"token_type": [1]}, "token_type: has 1 entries for 320 tokens"),
        ({"merges": ["a zzz"]}, "merges: do not fit the tokens"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    keys = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    assert message in refusal({**byte_level_metadata(), **keys})


def test_ids_that_are_no_tokens_end_no_generation() -> None:
    metadata = byte_level_metadata(eot_token_id=4000, eom_token_id=[1], padding_token_id=2**32 - 1)
    assert special_token_ids(metadata) == {"eos_token_id": [2, 0]}
    assert build(metadata).pad_token is None


def test_two_tokens_of_one_text_are_refused() -> None:
    assert "'<|im_end|>' is also token 320" in refusal(byte_level_metadata(extra=("<|im_end|>",)))
