"""What was measured of each case, kept in docs/benchmarks.json, and the page that shows it."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cases import CASES, LATER, Case
from picture import draw_ratios

from jaxdistill.files import atomic_file
from jaxdistill.report import to_standalone_svg

DOCS = Path(__file__).parents[2] / "docs"
_HEAD = ("work", "beside", "ours, units/s", "theirs", "speed", "ours, GiB", "theirs", "memory")
_ABOUT = (
    f"`tests/benchmarks/run.sh [CASE ...]`, {os.cpu_count()} CPU cores, float32. Units: tokens, "
    "rows or starts; medians of all repeats (slowest–fastest), programs run in turn, memory is the "
    "peak of the process. Each row says when it was measured, in how many rounds, and at which "
    "commit."
)


@dataclass(frozen=True)
class Measured:
    """One program, over all rounds.

    Attributes:
        speed: Units a second, by the median of all repeats.
        spread: By the slowest and by the fastest of them; None where it was not kept.
        peak_bytes: The most memory that any round held at once.
    """

    speed: float
    spread: tuple[float, float] | None
    peak_bytes: int


@dataclass(frozen=True)
class Row:
    """Ours beside the peer's, in one call of the suite."""

    commit: str
    date: str
    rounds: int
    ours: Measured
    theirs: Measured

    @property
    def faster(self) -> float:
        """Ours in units of theirs."""
        return self.ours.speed / self.theirs.speed

    @property
    def memory(self) -> float:
        """Ours in units of theirs."""
        return self.ours.peak_bytes / self.theirs.peak_bytes


def keep(name: str, row: Row) -> None:
    """Puts a row in the place of the one that was there, and writes the page again."""
    rows = {**_rows(), name: row}
    rows = {name: rows[name] for name in CASES if name in rows}
    kept = {name: asdict(row) for name, row in rows.items()}
    _write("benchmarks.json", json.dumps(kept, indent=1) + "\n")
    _write("benchmarks.md", "\n".join(_page(rows)))
    ratios = {CASES[name].work: row.faster for name, row in rows.items()}
    _write("benchmarks.svg", to_standalone_svg(draw_ratios(ratios)))


def line(case: Case, row: Row) -> str:
    """A line of the table."""
    marks = []
    if case.speed is not None:
        marks.append(f"{'met' if row.faster >= case.speed else 'missed'} (≥ {case.speed:.3g} ×)")
    if case.memory is not None:
        marks.append(f"{'met' if row.memory <= case.memory else 'missed'} (≤ {case.memory:g} ×)")
    cells = [
        case.work,
        case.peer[1],
        _speed(row.ours),
        _speed(row.theirs),
        f"{row.faster:.2f} ×",
        f"{row.ours.peak_bytes / 2**30:.2f}",
        f"{row.theirs.peak_bytes / 2**30:.2f}",
        f"{row.memory:.2f} ×",
        ", ".join(marks) or "none",
        f"{row.date}, {row.rounds} round{'s' if row.rounds > 1 else ''}, {row.commit}",
    ]
    return f"| {' | '.join(cells)} |"


def _rows() -> dict[str, Row]:
    path = DOCS / "benchmarks.json"
    if not path.exists():
        return {}
    return {name: _row(fields) for name, fields in json.loads(path.read_text()).items()}


def _row(fields: Mapping) -> Row:
    sides = {side: Measured(**fields[side]) for side in ("ours", "theirs")}
    return Row(**{**fields, **sides})


def _page(rows: Mapping[str, Row]) -> Iterator[str]:
    yield f"# Benchmarks\n\n{_ABOUT}\n"
    yield f"| {' | '.join([*_HEAD, 'marks', 'measured'])} |"
    yield "|---" * (len(_HEAD) + 2) + "|"
    yield from (line(CASES[name], row) for name, row in rows.items())
    for work, peer, marks in LATER:
        yield f"| {work} | {peer} |{' – |' * 6} to come ({marks}) | – |"
    yield "\n![speed beside each peer](benchmarks.svg)\n"
    yield "[performance.md](performance.md) tells where the time goes and why marks were missed.\n"


def _write(name: str, text: str) -> None:
    with atomic_file(DOCS / name) as file:
        file.write_text(text, encoding="utf-8")


def _speed(found: Measured) -> str:
    """The median, and what the repeats lay between."""
    if found.spread is None:
        return _number(found.speed)
    return f"{_number(found.speed)} ({'–'.join(map(_number, found.spread))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
