"""Rows out of files: JSONL, Parquet, saved `datasets` folders, and the hub.

JSONL is read line by line here, so that a bad line can be named; the others by their libraries.
"""

import codecs
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from jaxdistill.errors import Findings, UserError, nearest
from jaxdistill.files import check_name

_FORMATS = "JSONL (.jsonl), Parquet (.parquet), a `datasets` folder or a hub name (`org/name`)"
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[^:/]+))?")
_FILE_SUFFIXES = {".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".txt", ".arrow", ".gz"}

Record = tuple[str, dict[str, Any]]
"""Where a row stands, and its fields."""


def records(source: str, findings: Findings) -> Iterator[Record]:
    """The rows of one source, in its order.

    Args:
        source: A path or a hub name, as `DataConfig.sources` describes them.
        findings: Takes the bad lines; the good ones come out all the same.

    Raises:
        UserError: where the source as a whole cannot be read.
    """
    path = Path(source).expanduser()
    check_name(path)
    folder, _, split = source.rpartition(":")
    if path.is_file():
        return _file(path, findings)
    if path.is_dir():
        return _folder(path, None)
    if folder and Path(folder).expanduser().is_dir():
        return _folder(Path(folder).expanduser(), split)
    name = _HUB_NAME.fullmatch(source)
    # `data/row` beside a folder `data` is a slip of the pen, not an organisation of that name.
    is_local = path.suffix in _FILE_SUFFIXES or source[0] in ".~" or path.parent.is_dir()
    if name and not is_local:
        return _hub(source, name["name"], name["config"], name["split"] or "train")
    siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
    close = nearest(path.name, sorted(siblings))
    raise UserError(f"{source}: no such file or folder.{close} A source is {_FORMATS}.")


def _file(path: Path, findings: Findings) -> Iterator[Record]:
    if path.suffix in (".jsonl", ".ndjson"):
        return _jsonl(path, findings)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise UserError(f"{path}: `{path.suffix}` files are not read. A source is {_FORMATS}.")


def _jsonl(path: Path, findings: Findings) -> Iterator[Record]:
    try:
        yield from _lines(path, findings)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def _lines(path: Path, findings: Findings) -> Iterator[Record]:
    with path.open("rb") as lines:  # only \n ends a line here; text mode would split at others
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise UserError(f"{path}: is UTF-16. Save the file as UTF-8.")
                if b"\0" in line:
                    raise UserError(f"{path}: holds no text. A source is {_FORMATS}.")
            if not line.strip():
                continue
            with findings.collect():
                yield place, _object(line, place)


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode().rstrip())  # an error at its end is in this line
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise UserError(
            f"{place}: not UTF-8: byte 0x{byte:02x} at column {error.start + 1}. "
            "Save the file as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error.msg} at column {error.colno}.") from None
    except ValueError:
        raise UserError(f"{place}: not a row: a number in it has too many digits.") from None
    except RecursionError:
        raise UserError(f"{place}: not a row: nested too deeply to be read.") from None
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected an object like {{...}}, found {line[:40]!r}.")
    return value


def _parquet(path: Path) -> Iterator[Record]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {_first_line(error)}") from None
    return _numbered(str(path), (row for batch in table.to_batches() for row in batch.to_pylist()))


def _folder(path: Path, split: str | None) -> Iterator[Record]:
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".jsonl", ".parquet"))
        hint = f" Name its files: {', '.join(inside[:4])}." if inside else ""
        raise UserError(f"{path}: a folder, but not one of `datasets.save_to_disk`.{hint}")
    import datasets  # takes as long as everything else in this file's room, and most rows are JSONL

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable `datasets` folder: {_first_line(error)}") from None
    if isinstance(loaded, datasets.DatasetDict):
        splits = sorted(map(str, loaded))
        split = split or (splits[0] if len(splits) == 1 else "train")
        if split not in splits:
            listed = ", ".join(splits)
            raise UserError(
                f"{path}: has no split `{split}`.{nearest(split, splits)} Write "
                f"`{path}:SPLIT` with one of {listed}."
            )
        loaded = loaded[split]
    elif split:
        raise UserError(f"{path}: holds a single data set; write it without `:{split}`.")
    return _numbered(str(path), iter(loaded))


def _hub(source: str, name: str, config: str | None, split: str) -> Iterator[Record]:
    import datasets

    # Its five retries are no news beside the one line below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # noqa: BLE001 (the hub's clients raise dozens of kinds)
        raise UserError(
            f"{source}: no such file or folder here, and the hub gives no such data set: "
            f"{_first_line(error)}"
        ) from None
    return _numbered(source, iter(loaded))


def _numbered(where: str, rows: Iterator[Any]) -> Iterator[Record]:
    return ((f"{where} row {number}", dict(row)) for number, row in enumerate(rows))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
