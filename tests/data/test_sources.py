"""Data sources: every format is read alike, and every error names its source and line."""

import gzip
import json
from pathlib import Path

import datasets
import pytest

from jaxdistill.config import load
from jaxdistill.data import DataConfig, read_split
from jaxdistill.errors import UserError

ROWS = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(5)]


def write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return str(path)


def config(*sources: str, **fields) -> DataConfig:
    return DataConfig(sources=sources, **{"heldout": 0.0, **fields})


def error_lines(data: DataConfig) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        read_split(data)
    assert "Traceback" not in str(caught.value)
    return caught.value.lines


def contents(data: DataConfig) -> list:
    return [row.content for row in read_split(data).train]


def test_every_format_gives_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet("rows.parquet")
    data.save_to_disk("folder")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk("splits")
    jsonl = write(Path("rows.jsonl"), *map(json.dumps, ROWS))
    expected = contents(config(jsonl))
    assert len(expected) == 5
    for source in ("rows.parquet", "folder", "splits", "splits:train", str(tmp_path / "folder")):
        assert contents(config(source)) == expected, source
    assert contents(config("splits:test")) == expected[:1]
    assert contents(config(jsonl, "splits:test")) == [*expected, expected[0]]
    ids = [row.row_id for row in read_split(config(jsonl, "splits:test")).train]
    assert ids == list(range(6))


def test_messages_survive_parquet(tmp_path):
    datasets.disable_progress_bars()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    plain = write(tmp_path / "a.jsonl", json.dumps({"messages": messages}))
    # Arrow fills every row up with the fields of the others, as nulls.
    rows = [{"messages": messages, "text": None}, {"messages": None, "text": "Words."}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    chat, text = contents(config(str(tmp_path / "a.parquet")))
    assert [chat] == contents(config(plain))
    assert text.completion == "Words."


def test_every_bad_line_is_named_with_its_reason(tmp_path):
    path = write(
        tmp_path / "bad.jsonl",
        '{"text": "fine"}',
        '{"text": "torn',
        b'{"text": "caf\xe9"}',
        "[1, 2]",
        "",
        '{"txt": "typo"}',
        '{"prompt": 7, "completion": "x"}',
        '{"messages": []}',
        '{"messages": [{"role": "user"}]}',
        r'{"text": "half \ud83d"}',
        '{"prompt_tokens": [1, true], "completion_tokens": [2]}',
        '{"text": ' + "9" * 5000 + "}",
    )
    lines = error_lines(config(path))
    assert [int(line.split(":")[1]) for line in lines] == [2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    for line, message in zip(
        lines,
        (
            "not JSON",
            "not UTF-8: byte 0xe9 at column 14",
            "expected an object",
            'has `txt`, but a row is {"text"}',
            "`prompt` is the number 7",
            "`messages` is an empty list",
            "`messages[0]` has keys ['role']",
            "lone surrogate",
            "`prompt_tokens` is a list with true or false, expected a list of token ids",
            "a number in it has too many digits",
        ),
        strict=True,
    ):
        assert message in line
    assert "Did you mean `text`?" in lines[3]


def test_a_null_and_a_missing_brace_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": null, "completion": "x"}\n{"prompt": "x"\n')
    null, brace = error_lines(config(str(path)))[:2]
    assert "has `completion`, `prompt` that is null, but a row is" in null
    assert "Did you mean" not in null
    assert "at column 15" in brace


def test_ten_errors_are_shown_and_the_others_counted(tmp_path):
    path = write(tmp_path / "bad.jsonl", *["{"] * 25)
    with pytest.raises(UserError) as caught:
        read_split(config(path, path))
    assert len(caught.value.lines) == 50
    assert len(caught.value.shown_lines) == 11
    assert caught.value.shown_lines[-1] == "... and 40 more."
    assert str(caught.value) == "\n".join(caught.value.shown_lines)


def test_errors_of_several_sources_are_reported_together(tmp_path):
    write(tmp_path / "prompts.jsonl", '{"text": "fine"}')
    empty = write(tmp_path / "empty.jsonl", "")
    lines = error_lines(
        config(str(tmp_path / "promts.jsonl"), empty, str(tmp_path / "notes.txt"), str(tmp_path))
    )
    assert "no such file" in lines[0]
    assert "Did you mean `prompts.jsonl`?" in lines[0]
    assert "empty data set" in lines[1]
    assert "no such file" in lines[2]
    assert "not one of `datasets.save_to_disk`" in lines[3]
    assert "prompts.jsonl" in lines[3]


def test_unknown_formats_and_broken_files_are_named(tmp_path):
    broken = write(tmp_path / "rows.parquet", "this is no Parquet")
    text = write(tmp_path / "notes.txt", "words")
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "state.json", "{}")
    binary = tmp_path / "rows.jsonl"
    binary.write_bytes(b"\x93\0\n" * 20)
    zipped = tmp_path / "zipped.jsonl"
    zipped.write_bytes(gzip.compress(b'{"text": "fine"}'))
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"text": "fine"}' * 99)[:30])
    lines = error_lines(config(broken, text, *map(str, (folder, binary, zipped, torn))))
    assert "not a readable Parquet file" in lines[0]
    assert "`.txt` files are not read" in lines[1]
    assert "not a readable `datasets` folder" in lines[2]
    assert "rows.jsonl: holds no text" in lines[3]
    assert "zipped.jsonl: is compressed by gzip. Give it a name that ends in `.gz`" in lines[4]
    assert "torn.jsonl.gz: not a readable gzip file" in lines[5]
    assert len(lines) == 6


def test_binary_columns_are_refused(tmp_path):
    datasets.disable_progress_bars()
    rows = {
        "prompt": {"prompt": b"\xff", "completion": "x"},
        "prompt_tokens": {"prompt_tokens": b"\x01", "completion_tokens": b"\x02"},
    }
    for field, row in rows.items():
        path = str(tmp_path / f"{field}.parquet")
        datasets.Dataset.from_list([row]).to_parquet(path)
        (line,) = error_lines(config(path))
        assert f"`{field}` is binary data, expected " in line


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[]", "sources: holds nothing; expected at least 1."),
        ("['']", "sources[0]: string should have at least 1 character"),
        ("''", "sources[0]: string should have at least 1 character"),
    ],
)
def test_a_config_without_sources_is_refused(sources, message):
    with pytest.raises(UserError) as caught:
        load(DataConfig, None, [f"sources={sources}"])
    (line,) = caught.value.lines
    assert message in line


def test_missing_split_names_the_nearest(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"validation": data, "test": data}).save_to_disk(str(tmp_path / "d"))
    assert "one of test, validation" in error_lines(config(str(tmp_path / "d")))[0]
    assert "Did you mean `validation`?" in error_lines(config(f"{tmp_path / 'd'}:validatio"))[0]


def test_an_unreachable_hub_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (line,) = error_lines(config("no-such-org/no-such-data:test"))
    assert line.startswith("no-such-org/no-such-data:test: no such file or folder here")


def test_byte_order_mark_and_windows_line_ends_are_removed(tmp_path):
    path = write(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r', b'{"text": "two\xe2\x80\xa8"}\r'
    )
    assert [c.completion for c in contents(config(path))] == ["one", "two\u2028"]


def test_other_line_ends_lose_no_row(tmp_path):
    for ends, expected in ((b"\r\n", 3), (b"\r\r\n", 3), (b"\n\n", 3)):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(ends.join([b'{"text": "a"}', b'{"text": "b"}', b'{"text": "c"}']))
        assert len(contents(config(str(path)))) == expected
    path.write_bytes(b'{"text": "a"}\r{"text": "b"}')
    (line,) = error_lines(config(str(path)))
    assert "rows.jsonl:1: not JSON: Extra data" in line
