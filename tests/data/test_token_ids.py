"""Tokens for which a model has no row are refused with their row."""

import json
from pathlib import Path

import pytest

from jaxdistill.data import DataConfig, VocabRows, check_data, prepare
from jaxdistill.errors import UserError
from tests import tiny

ROWS = VocabRows(336, 336)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    rows = [
        {"prompt": "the cat", "completion": " sat"},
        {"prompt": "call <tool_29> now", "completion": " ok <tool_28>"},
        {"prompt": "call <tool_3>", "completion": " ok"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(sources=(str(path),), length=64)


def with_tools():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"<tool_{number}>" for number in range(30)])
    return tokenizer


@pytest.mark.parametrize("call", [prepare, check_data])
def test_a_token_without_row_is_named_with_its_file_and_line(config: DataConfig, call) -> None:
    with pytest.raises(UserError) as caught:
        call(config, with_tools(), vocab_rows=ROWS)
    (line,) = caught.value.lines
    assert "rows.jsonl:2: token 349 (`<tool_29>`) is behind the 336 rows of the student's" in line
    assert "resize_token_embeddings" in line
    call(config, with_tools(), vocab_rows=VocabRows(350, 350))
    call(config, with_tools())


def test_ids_of_a_resized_model_pass(config: DataConfig) -> None:
    assert prepare(config, with_tools(), vocab_rows=VocabRows(350, 336)).train
