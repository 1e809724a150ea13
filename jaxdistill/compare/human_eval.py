"""Blind pairs of completions as a CSV sheet for people, and the judgements read back from it."""

import codecs
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scipy.special import betaincinv

from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.evals import Estimate
from jaxdistill.report import strip_control_characters

SHEET_NAME = "judgements.csv"
COLUMNS = ("number", "prompt", "answer_1", "answer_2", "better", "note")
_CHOICES = ("1", "2", "tie")

# A prompt may be longer than the 131,072 characters that a cell may have by default. This is the
# largest limit that every platform takes; it holds for the whole process.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class CompletionPair:
    """Completions of one prompt by a candidate and by the first model, in the order of the sheet.

    `number` is that in the sheet, from 1.
    """

    number: int
    prompt: str
    candidate: str
    completions: tuple[str, str]
    is_candidate_first: bool


@dataclass(frozen=True)
class Judgement:
    """Choice ("1", "2", "tie" or empty) and note of a person."""

    choice: str = ""
    note: str = ""


def make_blind_pairs(
    prompts: Sequence[str], completions: Mapping[str, Sequence[str]]
) -> list[CompletionPair]:
    """Pair the completions of every candidate with those of the first model.

    Completions of the same words make no pair. A hash of prompt and candidate decides which of two
    completions comes first, and in which round over all prompts a candidate's turn is. So pairs of
    one prompt are not neighbours, and the sheet is read back without a key.
    """
    first, *candidates = completions
    # Sheets of earlier versions depend on what is hashed.
    rounds = [sorted(candidates, key=partial(_stable_hash, "place", prompt)) for prompt in prompts]
    pairs: list[CompletionPair] = []
    for turn in range(len(candidates)):
        for index, prompt in enumerate(prompts):
            name = rounds[index][turn]
            candidate, reference = completions[name][index], completions[first][index]
            if candidate.split() == reference.split():
                continue
            is_first = _stable_hash("order", prompt, name) % 2 == 0
            texts = (candidate, reference) if is_first else (reference, candidate)
            pairs.append(CompletionPair(len(pairs) + 1, prompt, name, texts, is_first))
    return pairs


def format_sheet(pairs: Sequence[CompletionPair], judgements: Mapping[int, Judgement]) -> str:
    """Return the sheet as CSV, with the judgements so far by the number of their pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        judgement = judgements.get(pair.number, Judgement())
        cells = (pair.prompt, *pair.completions, judgement.choice, judgement.note)
        writer.writerow([pair.number, *map(_escape_formula, cells)])
    return text.getvalue()


def read_sheet(path: str | Path, pairs: Sequence[CompletionPair | None]) -> dict[int, Judgement]:
    """Read the judgements of a sheet by the number of their pair, without empty ones.

    Args:
        path: The sheet.
        pairs: Pairs of this comparison, which rows must match; None for a pair whose completions
            are not generated yet.

    Raises:
        UserError: naming every row that is not one of the pairs, or whose judgement is unknown.
    """
    judgements: dict[int, Judgement] = {}
    errors = ErrorCollector()
    numbers: set[int] = set()
    for line, row in _read_csv_rows(path):
        with errors.collect(f"{path}: row {line}"):
            number = _parse_number(row["number"], len(pairs))
            if number in numbers:
                raise UserError(f"number {number} stands in the sheet twice. Remove one.")
            numbers.add(number)
            choice = _parse_choice(row["better"])
            if (pair := pairs[number - 1]) is not None:
                _check_row_matches_pair(row, pair)
            if choice or row["note"].strip():
                judgements[number] = Judgement(choice, _unescape_formula(row["note"]))
    errors.raise_if_any()
    return judgements


def has_judgements(path: Path) -> bool:
    """Return True unless the sheet can be read and no row is filled in."""
    try:
        return any(row["better"].strip() or row["note"].strip() for _, row in _read_csv_rows(path))
    except UserError:
        return True


def add_preferences(
    metrics: ComparisonMetrics,
    pairs: Sequence[CompletionPair],
    judgements: Mapping[int, Judgement],
) -> None:
    """Record wins, ties, losses and preferred share of each candidate."""
    for name in metrics.candidates:
        counts = Counter(
            _candidate_outcome(pair, judgements.get(pair.number, Judgement()).choice)
            for pair in pairs
            if pair.candidate == name
        )
        for outcome in ("wins", "ties", "losses", "not_judged"):
            metrics.add(name, outcome, counts[outcome])
        if counts.total() > counts["not_judged"]:
            share = preference_share(counts["wins"], counts["ties"], counts["losses"])
            metrics.add(name, "preferred", share)


def _candidate_outcome(pair: CompletionPair, choice: str) -> str:
    if choice in ("", "tie"):
        return "ties" if choice else "not_judged"
    return "wins" if (choice == "1") == pair.is_candidate_first else "losses"


def preference_share(wins: int, ties: int, losses: int) -> Estimate:
    """Return (wins + ties / 2) / all, with its exact 95 % interval.

    Six wins of six decide; by resampling, three would. With ties the interval is wider than it
    need be, never too narrow, because a tie is nearer to one half than a win or a loss.

    Reference:
        Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of
        the Binomial", 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    won, lost = wins + ties / 2, losses + ties / 2
    low = betaincinv(won, lost + 1, 0.025) if won else 0.0
    high = betaincinv(won + 1, lost, 0.975) if lost else 1.0
    return Estimate(won / (won + lost), float(low), float(high))


def _read_csv_rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a sheet saved by any spreadsheet, with the row number it shows."""
    text = re.sub(r"\Asep=.\r?\n", "", _read_text(path))
    head = text.partition("\n")[0]
    # Many spreadsheets put semicolons between cells, or tabs as "Unicode text".
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


def _read_text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error.reason}. Save it as CSV in UTF-8.") from None


def _parse_number(cell: str, max_number: int) -> int:
    text = _strip_decimal_zeros(cell)
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= number <= max_number:
        raise UserError(
            f"`number` is {cell!r}, expected 1 to {max_number}: this comparison has no other "
            "pairs. Give the same models, data and `--prompts` as when it was written."
        )
    return number


def _parse_choice(cell: str) -> str:
    choice = _strip_decimal_zeros(cell).lower()
    if choice not in ("", *_CHOICES):
        raise UserError(
            f"`better` is {cell!r}, expected 1, 2, tie or nothing.{did_you_mean(choice, _CHOICES)}"
        )
    return choice


def _strip_decimal_zeros(cell: str) -> str:
    """Remove the decimals that a spreadsheet may have given a number: `1.0` is `1`."""
    return re.sub(r"(?<=\d)[.,]0+$", "", cell.strip())


def _check_row_matches_pair(row: Mapping[str, str], pair: CompletionPair) -> None:
    expected = dict(zip(COLUMNS[1:4], (pair.prompt, *pair.completions), strict=True))
    for name, text in expected.items():
        cell, own_cell = _normalise_cell(row[name]), _normalise_cell(_escape_formula(text))
        if cell != own_cell:
            raise UserError(
                f"`{name}` is {cell[:40]!r}, but these models and rows give {own_cell[:40]!r}. "
                "Judgements count for the completions that were judged: give the same models, data "
                "and options."
            )


def _normalise_cell(cell: str) -> str:
    """Undo what an editor may do to spaces, line ends and the escape of a formula."""
    return " ".join(_unescape_formula(cell).split())


def _escape_formula(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    text = strip_control_characters(text).strip()
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _unescape_formula(cell: str) -> str:
    return re.sub(r"^'(?=[=+\-@])", "", cell.strip())


def _stable_hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
