"""Rows of JSON files: one object a line, or one array of objects; perhaps compressed by gzip.

They are parsed here, so that an error names its line.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.data.messages import describe_type
from jaxdistill.errors import ErrorCollector, UserError

_SUFFIXES = (".jsonl", ".ndjson", ".json")


class RawRow(NamedTuple):
    """A row before parsing: its source ("rows.jsonl:12") and its fields."""

    source: str
    fields: dict[str, Any]


def is_json_file(path: Path) -> bool:
    """Return True if the name is one of a JSON file."""
    return path.name.removesuffix(".gz").endswith(_SUFFIXES)


def read_json_rows(path: Path, findings: ErrorCollector) -> Iterator[RawRow]:
    """Read the rows of a JSON file; errors of single rows go to `findings`.

    Raises:
        UserError: if the file cannot be read, or is no such file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # Binary: text mode would split lines at \r, too.
            line, num_blank = _first_line(file)
            first = _check_first_line(line, path)
            if first.lstrip().startswith(b"["):
                yield from _read_array(first + file.read(), path, findings)
            else:
                yield from _read_lines(first, num_blank, file, path, findings)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a readable gzip file: {error}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def _first_line(file: Any) -> tuple[bytes, int]:
    """Return the first line with content, and the number of lines before it."""
    for number, line in enumerate(file):
        if line.strip():
            return line, number
    return b"", 0


def _check_first_line(line: bytes, path: Path) -> bytes:
    line = line.removeprefix(codecs.BOM_UTF8)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}: is UTF-16. Save the file as UTF-8.")
    if line.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: is compressed by gzip. Give it a name that ends in `.gz`.")
    if b"\0" in line:
        raise UserError(f"{path}: holds no text. Expected JSON, one object a line or one array.")
    return line


def _read_lines(
    first: bytes, num_blank: int, file: Any, path: Path, findings: ErrorCollector
) -> Iterator[RawRow]:
    _check_one_line(first, file, path)
    for number, line in enumerate(chain([first], file), start=num_blank + 1):
        if line.strip():
            with findings.collect():
                source = f"{path}:{number}"
                yield RawRow(source, _parse_object(line, source))


def _check_one_line(first: bytes, file: Any, path: Path) -> None:
    """Raise a UserError if a file is one object that goes over several lines."""
    if first.strip() != b"{":
        return
    position = file.tell()
    try:
        json.loads(first + file.read())
    except ValueError:
        file.seek(position)
        return
    raise UserError(
        f"{path}: is one JSON object over several lines. Write one object a line for each row, or "
        "one array of objects."
    )


def _read_array(content: bytes, path: Path, findings: ErrorCollector) -> Iterator[RawRow]:
    values = _parse(content, str(path))
    for number, value in enumerate(values):
        with findings.collect():
            source = f"{path} row {number}"
            yield RawRow(source, _check_object(value, source))


def _parse_object(line: bytes, source: str) -> dict[str, Any]:
    return _check_object(_parse(line, source), source)


def _check_object(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{source}: expected an object like {{...}}, got {describe_type(value)}: "
            f"{json.dumps(value, ensure_ascii=False)[:40]}."
        )
    return value


def _parse(content: bytes, source: str) -> Any:
    try:
        return json.loads(content.decode().rstrip())  # so that an error at the end is on this line
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(
            f"{source}: not UTF-8: byte 0x{byte:02x} at column {error.start + 1}. "
            "Save the file as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{source}: not JSON: {error.msg} at {line}column {error.colno}.") from None
    except ValueError:
        raise UserError(f"{source}: not a row: a number in it has too many digits.") from None
    except RecursionError:
        raise UserError(f"{source}: not a row: nested too deeply to be read.") from None
