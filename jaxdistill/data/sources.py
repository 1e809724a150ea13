"""Readers of data sources: JSON, Parquet, saved `datasets` folders, and the Hub."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from jaxdistill.data.json_rows import RawRow, is_json_file, read_json_rows
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.files import check_path_names

_FORMATS = (
    "JSONL or a JSON array (.jsonl, .json, .gz), Parquet (.parquet), a `datasets` folder or a Hub "
    "name (`org/name`)"
)
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[^:/]+))?")
_FILE_SUFFIXES = {".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".txt", ".arrow", ".gz"}


def read_rows(source: str, findings: ErrorCollector) -> Iterator[RawRow]:
    """Read the rows of a source (see `DataConfig.sources`) in its order.

    Errors of single lines go to `findings`, and the other lines are still returned.

    Raises:
        UserError: if the source as a whole cannot be read.
    """
    path = Path(source).expanduser()
    check_path_names(path)
    folder, _, split = source.rpartition(":")
    if path.is_file() and is_json_file(path):
        return read_json_rows(path, findings)
    if path.is_file() and path.suffix == ".parquet":
        return _read_parquet(path)
    if path.is_file():
        raise UserError(f"{path}: `{path.suffix}` files are not read. A source is {_FORMATS}.")
    if path.is_dir():
        return _read_dataset_folder(path, None)
    if folder and Path(folder).expanduser().is_dir():
        return _read_dataset_folder(Path(folder).expanduser(), split)
    name = _HUB_NAME.fullmatch(source)
    # If there is a folder `data`, then `data/row` is a misspelt path and no Hub name.
    is_local = path.suffix in _FILE_SUFFIXES or source[0] in ".~" or path.parent.is_dir()
    if name and not is_local:
        return _read_hub_dataset(source, name["name"], name["config"], name["split"] or "train")
    siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
    close = did_you_mean(path.name, sorted(siblings))
    raise UserError(f"{source}: no such file or folder.{close} A source is {_FORMATS}.")


def _read_parquet(path: Path) -> Iterator[RawRow]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {_first_line(error)}") from None
    return _with_row_numbers(
        str(path), (row for batch in table.to_batches() for row in batch.to_pylist())
    )


def _read_dataset_folder(path: Path, split: str | None) -> Iterator[RawRow]:
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        inside = sorted(p.name for p in path.iterdir() if is_json_file(p) or p.suffix == ".parquet")
        hint = f" Name its files: {', '.join(inside[:4])}." if inside else ""
        raise UserError(f"{path}: a folder, but not one of `datasets.save_to_disk`.{hint}")
    import datasets  # slow to import, and most sources are JSONL

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
                f"{path}: has no split `{split}`.{did_you_mean(split, splits)} Write "
                f"`{path}:SPLIT` with one of {listed}."
            )
        loaded = loaded[split]
    elif split:
        raise UserError(f"{path}: holds a single data set; write it without `:{split}`.")
    return _with_row_numbers(str(path), iter(loaded))


def _read_hub_dataset(source: str, name: str, config: str | None, split: str) -> Iterator[RawRow]:
    import datasets

    # The error below says enough; five warnings about retries do not help.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # noqa: BLE001 (the hub's clients raise dozens of kinds)
        raise UserError(
            f"{source}: no such file or folder here, and the Hub gives no such data set: "
            f"{_first_line(error)}"
        ) from None
    return _with_row_numbers(source, iter(loaded))


def _with_row_numbers(source: str, rows: Iterator[Any]) -> Iterator[RawRow]:
    return (RawRow(f"{source} row {number}", dict(row)) for number, row in enumerate(rows))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
