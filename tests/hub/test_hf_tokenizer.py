"""Tokenizers of Hugging Face folders: tokenizer.json decides, before and after an export."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.hub.hf_tokenizer import load_tokenizer

CLASSES = (
    *("PreTrainedTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer"),
    *("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", None),
)
TEXTS = (
    "1. one\n\n2. two",
    "12  3",
    " leading, trailing  \n\n\n",
    "Zürich, naïve café, 東京 🙂",
    "def f(x):\n\treturn x**2  # four    spaces",
    "a <s> b <|im_end|><end>",
)


def smollm() -> PreTrainedTokenizerFast:
    """Splits digits first, which no class of `transformers` does."""
    tokenizer = tiny.tokenizer(bos=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return tokenizer


TOKENIZERS = {"gpt2": tiny.tokenizer, "smollm": smollm, "sentencepiece": tiny.sentencepiece}


def write(tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> Path:
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    merged = {**json.loads(path.read_text()), **options}
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    return folder


def file_ids(folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_file_decides_whatever_class_is_named(
    kind: str, class_name: str | None, tmp_path: Path
) -> None:
    original = TOKENIZERS[kind]()
    folder = write(original, tmp_path / "folder", tokenizer_class=class_name)
    expected = file_ids(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer(list(TEXTS)).input_ids == expected
    assert tokenizer.chat_template == original.chat_template
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, name) == getattr(original, name)

    tokenizer.save_pretrained(tmp_path / "exported")
    assert file_ids(tmp_path / "exported") == expected
    (tmp_path / "exported/config.json").write_text(json.dumps(tiny.CONFIG))
    exported = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert exported(list(TEXTS)).input_ids == expected


def test_arguments_of_the_call_are_not_exported(tmp_path: Path) -> None:
    load_tokenizer(write(tiny.tokenizer(), tmp_path)).save_pretrained(tmp_path / "exported")
    options = json.loads((tmp_path / "exported/tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only", "name_or_path"} & set(options)


@pytest.mark.parametrize("class_name", ["LlamaTokenizer", None])
@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("flag", [True, False, None])
def test_bos_is_added_if_the_file_or_the_flag_says_so(
    flag: bool | None, in_file: bool, class_name: str | None, tmp_path: Path
) -> None:
    tokenizer = tiny.tokenizer(bos=in_file)
    options = {"tokenizer_class": class_name, "add_bos_token": flag, "bos_token": "<s>"}
    folder = write(tokenizer, tmp_path / "folder", **options)
    plain = tiny.tokenizer()("the cat").input_ids
    expected = [3, *plain] if in_file or flag else plain
    read = load_tokenizer(folder)
    assert read("the cat").input_ids == expected
    assert read("the cat", add_special_tokens=False).input_ids == plain
    read.save_pretrained(tmp_path / "exported")
    assert AutoTokenizer.from_pretrained(tmp_path / "exported")("the cat").input_ids == expected


@pytest.mark.parametrize("bos", [True, False])
def test_eos_is_added_if_the_flag_says_so(bos: bool, tmp_path: Path) -> None:
    folder = write(tiny.tokenizer(bos=bos), tmp_path, add_eos_token=True)
    plain = tiny.tokenizer()("the cat", return_offsets_mapping=True)
    read = load_tokenizer(folder)("the cat", return_offsets_mapping=True)
    assert read.input_ids == [*([3] if bos else []), *plain.input_ids, 2]
    assert read.offset_mapping[bos:-1] == plain.offset_mapping


def test_a_flag_without_its_token_is_passed_over(tmp_path: Path) -> None:
    folder = write(tiny.tokenizer(), tmp_path, add_bos_token=True, add_eos_token=True)
    assert load_tokenizer(folder)("a").input_ids == [*tiny.tokenizer()("a").input_ids, 2]


def test_special_tokens_of_config_json_are_named(tmp_path: Path) -> None:
    """GPT-2's folder has no `tokenizer_config.json` that names EOS."""
    folder = write(tiny.tokenizer(eos=None), tmp_path)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 9999}
    (folder / "config.json").write_text(json.dumps({**tiny.CONFIG, **ids}))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0)
    assert tokenizer.pad_token is None
    assert len(tokenizer) == 320
    assert tokenizer.model_max_length == 64


def test_tokens_that_only_the_config_declares_are_added(tmp_path: Path) -> None:
    folder = write(tiny.tokenizer(), tmp_path, pad_token="[PAD]")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token_id, len(tokenizer)) == (320, 321)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model_max_length", "x", "a number of tokens"),
        ("model_max_length", True, "a number of tokens"),
        ("eos_token", 5, "a text"),
        ("chat_template", 5, "a text or a list of templates"),
        ("add_bos_token", "yes", "true or false"),
        ("added_tokens_decoder", [], "an object"),
    ],
)
def test_values_of_a_wrong_type_are_refused(
    key: str, value: object, expected: str, tmp_path: Path
) -> None:
    folder = write(tiny.tokenizer(), tmp_path, **{key: value})
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    assert caught.value.lines == (
        f"{folder}/tokenizer_config.json: `{key}` is {value!r}, expected {expected}.",
    )


def test_a_model_keeps_its_tokenizer_through_an_export(tmp_path: Path) -> None:
    folder = tiny.model_folder(tmp_path / "folder", reads=smollm())
    options = json.loads((folder / "tokenizer_config.json").read_text())
    options["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    exported = hub.save(hub.load(folder), tmp_path / "exported")
    assert file_ids(exported) == file_ids(folder)
