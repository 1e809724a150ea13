"""The rows of the sheet for people's judgements, however a spreadsheet saved it."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from jaxdistill.errors import UserError, did_you_mean

COLUMNS = ("number", "prompt", "answer_1", "answer_2", "better", "note")

# A prompt may be longer than the 131,072 characters that a cell may have by default; this is the
# most that every platform takes. It holds for the whole process, and refuses nobody anything.
csv.field_size_limit(2**31 - 1)


def read_csv_rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a sheet, numbered as a spreadsheet numbers them.

    Raises:
        UserError: where it cannot be read, or lacks a column; only `note` may be missing.
    """
    try:
        content = Path(path).read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error.reason}. Save it as CSV in UTF-8.") from None
    text = re.sub(r"\Asep=.\r?\n", "", text)
    head = text.partition("\n")[0]
    # Spreadsheets of half the world write a semicolon between cells; as "Unicode text", tabs.
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip().lower() for column in next(reader, ())]
        if missing := [name for name in COLUMNS[:-1] if name not in columns]:
            raise UserError(
                f"{path}: has no column `{missing[0]}`; expected {', '.join(COLUMNS)}, as "
                f"`jaxdistill compare` writes them.{did_you_mean(missing[0], columns)}"
            )
        for line, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                yield line, dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file: {error}. Export it as CSV again.") from None
