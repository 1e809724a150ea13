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

from jaxdistill.compare.record import Record
from jaxdistill.compare.sheet import COLUMNS, sheet
from jaxdistill.errors import Findings, UserError, nearest
from jaxdistill.evals import Estimate
from jaxdistill.report import printable

_JUDGEMENTS = ("1", "2", "tie")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt.

    Attributes:
        number: Its number in the sheet, from 1.
        prompt: What was asked.
        candidate: Who gave one of the answers; the first model gave the other.
        answers: Both, in the order in which they are shown.
        is_candidate_first: Whether the candidate's comes first.
    """

    number: int
    prompt: str
    candidate: str
    answers: tuple[str, str]
    is_candidate_first: bool


@dataclass(frozen=True)
class Judgement:
    """What a person said of a pair; both may be empty."""

    better: str = ""
    note: str = ""


def pairs(prompts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Every candidate's answer beside the first model's, blind.

    A hash of prompt and candidate decides which of two answers comes first, and in which round
    over all prompts a candidate's turn is: the first model's answer, which stands in every pair of
    a prompt, does not come twice in a row, and nothing else is needed to read the sheet. Answers
    of the same words are no pair.

    Args:
        prompts: What was asked.
        answers: Of each model, the first one first.
    """
    first, *candidates = answers
    found: list[Pair] = []
    turns = [_shuffled(candidates, prompt) for prompt in prompts]
    for turn in range(len(candidates)):
        for place, prompt in enumerate(prompts):
            name = turns[place][turn]
            ours, theirs = answers[name][place], answers[first][place]
            if ours.split() == theirs.split():
                continue  # nobody has to judge that
            leads = _hash("order", prompt, name) % 2 == 0
            both = (ours, theirs) if leads else (theirs, ours)
            found.append(Pair(len(found) + 1, prompt, name, both, leads))
    return found


def _shuffled(names: Sequence[str], prompt: str) -> list[str]:
    return sorted(names, key=lambda name: _hash("place", prompt, name))


def write_sheet(found: Sequence[Pair], judged: Mapping[int, Judgement]) -> str:
    """The sheet as CSV, with what was judged so far."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for pair in found:
        said = judged.get(pair.number, Judgement())
        cells = (pair.prompt, *pair.answers, said.better, said.note)
        writer.writerow([pair.number, *map(_cell, cells)])
    return text.getvalue()


def read_sheet(path: str | Path, found: Sequence[Pair]) -> dict[int, Judgement]:
    """What was judged of these pairs, by their number; pairs that were not judged are left out.

    Raises:
        UserError: naming every row that is not one of the pairs, or that says something unknown.
    """
    judged: dict[int, Judgement] = {}
    findings = Findings()
    for place, (number, row) in check_sheet(path, len(found)).items():
        with findings.collect(place):
            _check_pair(row, found[number - 1])
            better = _better(row)
            if better or row["note"].strip():
                judged[number] = Judgement(better, _read(row["note"]))
    findings.raise_any()
    return judged


def check_sheet(path: str | Path, most: int) -> dict[str, tuple[int, dict[str, str]]]:
    """The rows of a sheet with their numbers, by their place, as far as no model has to be asked.

    Args:
        path: The sheet.
        most: How many pairs there are at most.

    Raises:
        UserError: naming every row whose number is none, stands there twice, or whose judgement
            is unknown.
    """
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    findings = Findings()
    seen: set[int] = set()
    for line, row in sheet(path):
        place = f"{path}: row {line}"
        with findings.collect(place):
            number = _number(row, most)
            if number in seen:
                raise UserError(f"number {number} stands in the sheet twice. Remove one.")
            seen.add(number)
            _better(row)
            rows[place] = number, row
    findings.raise_any()
    return rows


def measure_judgements(
    record: Record,
    candidates: Sequence[str],
    found: Sequence[Pair],
    judged: Mapping[int, Judgement],
) -> None:
    """Note wins, ties and losses of each candidate, and its share with ties as halves."""
    for name in candidates:
        outcomes = [
            _outcome(pair, judged.get(pair.number, Judgement()).better)
            for pair in found
            if pair.candidate == name
        ]
        wins, ties, losses, silent = (outcomes.count(one) for one in ("win", "tie", "loss", ""))
        for quantity, count in (("wins", wins), ("ties", ties), ("losses", losses)):
            record.add(name, quantity, count)
        record.add(name, "not_judged", silent)
        if wins + ties + losses:
            record.add(name, "preferred", share(wins, ties, losses))


def share(wins: int, ties: int, losses: int) -> Estimate:
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


def _outcome(pair: Pair, better: str) -> str:
    if better in ("", "tie"):
        return better
    return "win" if (better == "1") == pair.is_candidate_first else "loss"


def _number(row: Mapping[str, str], most: int) -> int:
    text = _whole(row["number"])
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= number <= most:
        raise UserError(
            f"`number` is {row['number']!r}, expected 1 to {most}: this comparison has no other "
            "pairs. Give the same models, data and `--prompts` as when it was written."
        )
    return number


def _better(row: Mapping[str, str]) -> str:
    better = _whole(row["better"]).lower()
    if better not in ("", *_JUDGEMENTS):
        raise UserError(
            f"`better` is {row['better']!r}, expected 1, 2, tie or nothing."
            f"{nearest(better, _JUDGEMENTS)}"
        )
    return better


def _whole(cell: str) -> str:
    """A cell whose number a spreadsheet may have given decimals."""
    return re.sub(r"(?<=\d)[.,]0+$", "", cell.strip())


def _check_pair(row: Mapping[str, str], pair: Pair) -> None:
    expected = dict(zip(COLUMNS[1:4], (pair.prompt, *pair.answers), strict=True))
    for name, ours in expected.items():
        if _bare(row[name]) != _bare(_cell(ours)):
            raise UserError(
                f"`{name}` is {_bare(row[name])[:40]!r}, but these models and rows give "
                f"{_bare(ours)[:40]!r}. Judgements count for the answers that were judged: give "
                "the same models, data and options."
            )


def _bare(cell: str) -> str:
    """A cell whatever an editor did to its spaces, its line ends and the mark of no formula."""
    return " ".join(_read(cell).split())


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    shown = printable(text).strip()
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r")) else shown


def _read(cell: str) -> str:
    return re.sub(r"^'(?=[=+\-@])", "", cell.strip())


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
