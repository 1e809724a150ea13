"""Exported `tokenizer_config.json` and `config.json`: keys that transformers 4.57 and 5 know."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers
from gguf_files import write_gguf
from tokenizers import pre_tokenizers

from jaxdistill import hub

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
TEXT = "<s>Zürich  has 42 cafés<|im_end|>\n"


def export(folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """Export a folder whose tokenizer_config.json was changed; return the new folder and file."""
    source = tiny.model_folder(folder / "source")
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    exported = hub.save(hub.load(source), folder / "exported")
    return exported, json.loads((exported / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_the_class_reads_tokenizer_json_as_it_stands(name: str, tmp_path: Path) -> None:
    folder, config = export(tmp_path, tokenizer_class=name)
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    exported = transformers.AutoTokenizer.from_pretrained(folder)
    source = hub.read_source(tmp_path / "source").load_tokenizer()
    assert exported(TEXT).input_ids == source(TEXT).input_ids


def test_our_own_loading_options_are_left_out(tmp_path: Path) -> None:
    _, config = export(tmp_path)
    assert not {"is_local", "local_files_only", "name_or_path", "tokenizer_file"} & config.keys()


def test_special_tokens_have_the_names_of_both_versions(tmp_path: Path) -> None:
    folder, config = export(tmp_path, image_token="<s>")
    assert config["additional_special_tokens"] == SPECIAL
    assert config["extra_special_tokens"] == {"image_token": "<s>"}
    exported = transformers.AutoTokenizer.from_pretrained(folder)
    assert exported.extra_special_tokens == SPECIAL
    assert exported.image_token == "<s>"
    again = hub.save(hub.load(folder), tmp_path / "again")
    assert json.loads((again / "tokenizer_config.json").read_text()) == config


def test_the_chat_template_is_in_both_places(tmp_path: Path) -> None:
    folder, config = export(tmp_path)
    assert config["chat_template"] == tiny.CHATML
    assert (folder / "chat_template.jinja").read_text() == tiny.CHATML


def test_named_chat_templates_are_in_both_places(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = {"default": tiny.CHATML, "tool_use": "tools"}
    folder = tiny.model_folder(tmp_path, reads=tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == [
        {"name": "default", "template": tiny.CHATML},
        {"name": "tool_use", "template": "tools"},
    ]
    exported = transformers.AutoTokenizer.from_pretrained(folder)
    assert exported.chat_template == tokenizer.chat_template


def test_defaults_of_the_class_are_written_out(tmp_path: Path) -> None:
    _, config = export(tmp_path, padding_side="left", model_input_names=["input_ids"])
    assert config["padding_side"] == "left"
    assert config["truncation_side"] == "right"
    assert config["model_input_names"] == ["input_ids"]


@pytest.mark.parametrize("adds_space", [True, False])
def test_the_space_before_a_text_is_that_of_tokenizer_json(
    adds_space: bool, tmp_path: Path
) -> None:
    """Version 4 takes false where the key is missing, and changes the pre-tokenizer."""
    tokenizer = tiny.tokenizer()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.backend_tokenizer.pre_tokenizer = byte_level
    folder = tiny.model_folder(tmp_path, reads=tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["add_prefix_space"] is adds_space


def test_a_gguf_file_is_exported_with_the_same_keys(tmp_path: Path) -> None:
    ours = hub.load(write_gguf("llama", tmp_path / "model.gguf"))
    folder = hub.save(ours, tmp_path / "exported")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["chat_template"] == tiny.CHATML
    assert config["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize("version", [None, "4.57.1"])
def test_config_json_has_both_names_of_the_dtype(version: str | None, tmp_path: Path) -> None:
    ours = hub.load(tiny.model_folder(tmp_path / "source"), with_tokenizer=False)
    ours.hf_config["transformers_version"] = version
    folder = hub.save(ours, tmp_path / "exported", dtype="bfloat16")
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["transformers_version"] == (version or transformers.__version__)
