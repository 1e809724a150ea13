"""People's judgements: a sheet of answers that does not say whose they are, out and in again."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.special import betaincinv

from jaxdistill.compare.judgement_csv import COLUMNS, read_csv_rows
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.evals import Estimate
from jaxdistill.report import strip_control_characters

_CHOICES = ("1", "2", "tie")


@dataclass(frozen=True)
class CompletionPair:
    """Two answers to one prompt.

    Attributes:
        number: Its number in the sheet, from 1.
        prompt: What was asked.
        candidate: Who gave one of the answers; the first model gave the other.
        answers: Both, in the order in which they are shown.
        is_candidate_first: Whether the candidate's comes first.
    """

    index: int
    prompt: str
    candidate: str
    completions: tuple[str, str]
    is_candidate_first: bool


@dataclass(frozen=True)
class Judgement:
    """What a person said of a pair; both may be empty."""

    choice: str = ""
    note: str = ""


def make_blind_pairs(
    prompts: Sequence[str], completions: Mapping[str, Sequence[str]]
) -> list[CompletionPair]:
    """Every candidate's answer beside the first model's, blind.

    A hash of prompt and candidate decides which of two answers comes first, and in which round
    over all prompts a candidate's turn is: the first model's answer, which stands in every pair of
    a prompt, does not come twice in a row, and nothing else is needed to read the sheet. Answers
    of the same words are no pair.

    Args:
        prompts: What was asked.
        answers: Of each model, the first one first.
    """
    first, *candidates = completions
    found: list[CompletionPair] = []
    turns = [_order_candidates(candidates, prompt) for prompt in prompts]
    for turn in range(len(candidates)):
        for place, prompt in enumerate(prompts):
            name = turns[place][turn]
            ours, theirs = completions[name][place], completions[first][place]
            if ours.split() == theirs.split():
                continue  # nobody has to judge that
            leads = _stable_hash("order", prompt, name) % 2 == 0
            both = (ours, theirs) if leads else (theirs, ours)
            found.append(CompletionPair(len(found) + 1, prompt, name, both, leads))
    return found


def _order_candidates(names: Sequence[str], prompt: str) -> list[str]:
    return sorted(names, key=lambda name: _stable_hash("place", prompt, name))


def format_sheet(pairs: Sequence[CompletionPair], judgements: Mapping[int, Judgement]) -> str:
    """The sheet as CSV, with what was judged so far."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        said = judgements.get(pair.index, Judgement())
        cells = (pair.prompt, *pair.completions, said.choice, said.note)
        writer.writerow([pair.index, *map(_escape_formula, cells)])
    return text.getvalue()


def read_sheet(path: str | Path, pairs: Sequence[CompletionPair]) -> dict[int, Judgement]:
    """What was judged of these pairs, by their number; pairs that were not judged are left out.

    Raises:
        UserError: naming every row that is not one of the pairs, or that says something unknown.
    """
    judged: dict[int, Judgement] = {}
    findings = ErrorCollector()
    for place, (number, row) in read_numbered_rows(path, len(pairs)).items():
        with findings.collect(place):
            _check_row_matches_pair(row, pairs[number - 1])
            better = _parse_choice(row)
            if better or row["note"].strip():
                judged[number] = Judgement(better, _unescape_formula(row["note"]))
    findings.raise_if_any()
    return judged


def read_numbered_rows(path: str | Path, max_number: int) -> dict[str, tuple[int, dict[str, str]]]:
    """The rows of a sheet with their numbers, by their place, as far as no model has to be asked.

    Args:
        path: The sheet.
        most: How many pairs there are at most.

    Raises:
        UserError: naming every row whose number is none, stands there twice, or whose judgement
            is unknown.
    """
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    findings = ErrorCollector()
    seen: set[int] = set()
    for line, row in read_csv_rows(path):
        place = f"{path}: row {line}"
        with findings.collect(place):
            number = _parse_number(row, max_number)
            if number in seen:
                raise UserError(f"number {number} stands in the sheet twice. Remove one.")
            seen.add(number)
            _parse_choice(row)
            rows[place] = number, row
    findings.raise_if_any()
    return rows


def add_preferences(
    metrics: ComparisonMetrics,
    candidates: Sequence[str],
    pairs: Sequence[CompletionPair],
    judgements: Mapping[int, Judgement],
) -> None:
    """Note wins, ties and losses of each candidate, and its share with ties as halves."""
    for name in candidates:
        outcomes = [
            _candidate_outcome(pair, judgements.get(pair.index, Judgement()).choice)
            for pair in pairs
            if pair.candidate == name
        ]
        wins, ties, losses, silent = (outcomes.count(one) for one in ("win", "tie", "loss", ""))
        for quantity, count in (("wins", wins), ("ties", ties), ("losses", losses)):
            metrics.add(name, quantity, count)
        metrics.add(name, "not_judged", silent)
        if wins + ties + losses:
            metrics.add(name, "preferred", preference_share(wins, ties, losses))


def preference_share(wins: int, ties: int, losses: int) -> Estimate:
    """The part that is won, ties as halves, with an exact interval of 95 %.

    Resampling would call three wins of three certain, and intervals that lean on the normal
    distribution four of four; this one needs six. A tie is nearer to the middle than any judgement
    for one side: with ties the interval is wider than it need be, never too narrow.

    Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the
    Binomial", 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    won, lost = wins + ties / 2, losses + ties / 2
    low = betaincinv(won, lost + 1, 0.025) if won else 0.0
    high = betaincinv(won + 1, lost, 0.975) if lost else 1.0
    return Estimate(won / (won + lost), float(low), float(high))


def _candidate_outcome(pair: CompletionPair, better: str) -> str:
    if better in ("", "tie"):
        return better
    return "win" if (better == "1") == pair.is_candidate_first else "loss"


def _parse_number(row: Mapping[str, str], max_number: int) -> int:
    text = _strip_decimal_zeros(row["number"])
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= number <= max_number:
        raise UserError(
            f"`number` is {row['number']!r}, expected 1 to {max_number}: this comparison has no other "
            "pairs. Give the same models, data and `--prompts` as when it was written."
        )
    return number


def _parse_choice(row: Mapping[str, str]) -> str:
    better = _strip_decimal_zeros(row["better"]).lower()
    if better not in ("", *_CHOICES):
        raise UserError(
            f"`better` is {row['better']!r}, expected 1, 2, tie or nothing."
            f"{did_you_mean(better, _CHOICES)}"
        )
    return better


def _strip_decimal_zeros(cell: str) -> str:
    """A cell whose number a spreadsheet may have given decimals."""
    return re.sub(r"(?<=\d)[.,]0+$", "", cell.strip())


def _check_row_matches_pair(row: Mapping[str, str], pair: CompletionPair) -> None:
    expected = dict(zip(COLUMNS[1:4], (pair.prompt, *pair.completions), strict=True))
    for name, ours in expected.items():
        if _normalise_cell(row[name]) != _normalise_cell(_escape_formula(ours)):
            raise UserError(
                f"`{name}` is {_normalise_cell(row[name])[:40]!r}, but these models and rows give "
                f"{_normalise_cell(ours)[:40]!r}. Judgements count for the answers that were judged: give "
                "the same models, data and options."
            )


def _normalise_cell(cell: str) -> str:
    """A cell whatever an editor did to its spaces, its line ends and the mark of no formula."""
    return " ".join(_unescape_formula(cell).split())


def _escape_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    shown = strip_control_characters(text).strip()
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r")) else shown


def _unescape_formula(cell: str) -> str:
    return re.sub(r"^'(?=[=+\-@])", "", cell.strip())


def _stable_hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
