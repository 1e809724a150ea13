"""Results of all cases in docs/benchmarks.json, and the page and chart generated from them.

    PYTHONPATH=tests/benchmarks .venv/bin/python tests/benchmarks/table.py

writes docs/benchmarks.md and docs/benchmarks.svg from docs/benchmarks.json.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cases import CASES, PLANNED, Case
from chart import render_speed_chart

from jaxdistill.files import atomic_file
from jaxdistill.report import to_standalone_svg

DOCS = Path(__file__).parents[2] / "docs"
_HEADER = (
    "workload",
    "peer",
    "jaxdistill, units/s",
    "peer, units/s",
    "speed ratio",
    "jaxdistill, GiB",
    "peer, GiB",
    "memory ratio",
    "targets",
    "measured",
)
_INTRODUCTION = f"""\
`tests/benchmarks/run.sh [CASE ...]` runs jaxdistill and a peer alternately on the same shapes and
data, in float32, on {os.cpu_count()} CPU cores.

- **Units** are tokens, positions (JSD) or process starts.
- **Speed** is the median of all repeats, with the range from slowest to fastest in parentheses.
- **Memory** is the peak of the process.
- **Ratios** are jaxdistill divided by the peer: a high speed ratio and a low memory ratio are good.
- **Targets** are what the ratios should reach (× the peer).
- **Measured** gives date, number of rounds and commit.
"""


@dataclass(frozen=True)
class Measurement:
    """Speed and memory of one program, over all rounds.

    Attributes:
        speed: Units per second, by the median of all repeats.
        spread: Units per second of the slowest and the fastest repeat; None if not recorded.
        peak_bytes: Largest peak memory of a process.
    """

    speed: float
    spread: tuple[float, float] | None
    peak_bytes: int


@dataclass(frozen=True)
class Comparison:
    """Measurements of jaxdistill and its peer in one call of `run.sh`."""

    commit: str
    date: str
    rounds: int
    jaxdistill: Measurement
    peer: Measurement

    @property
    def speed_ratio(self) -> float:
        """Speed of jaxdistill divided by the peer's."""
        return self.jaxdistill.speed / self.peer.speed

    @property
    def memory_ratio(self) -> float:
        """Peak memory of jaxdistill divided by the peer's."""
        return self.jaxdistill.peak_bytes / self.peer.peak_bytes


def save_comparison(name: str, comparison: Comparison) -> None:
    """Replace the result of case `name` in docs/benchmarks.json, and write page and chart."""
    comparisons = {**read_comparisons(), name: comparison}
    comparisons = {name: comparisons[name] for name in CASES if name in comparisons}
    fields = {name: asdict(comparison) for name, comparison in comparisons.items()}
    _write("benchmarks.json", json.dumps(fields, indent=1) + "\n")
    write_page(comparisons)


def read_comparisons() -> dict[str, Comparison]:
    """Read docs/benchmarks.json; empty if there is no such file."""
    path = DOCS / "benchmarks.json"
    if not path.exists():
        return {}
    return {name: _parse(fields) for name, fields in json.loads(path.read_text()).items()}


def write_page(comparisons: Mapping[str, Comparison]) -> None:
    """Write docs/benchmarks.md and docs/benchmarks.svg."""
    _write("benchmarks.md", "\n".join(_format_page(comparisons)))
    ratios = {CASES[name].workload: row.speed_ratio for name, row in comparisons.items()}
    _write("benchmarks.svg", to_standalone_svg(render_speed_chart(ratios)))


def format_row(case: Case, comparison: Comparison) -> str:
    """Format a row of the table."""
    jaxdistill, peer = comparison.jaxdistill, comparison.peer
    cells = [
        case.workload,
        case.peer,
        _format_speed(jaxdistill),
        _format_speed(peer),
        f"{comparison.speed_ratio:.2f} ×",
        f"{jaxdistill.peak_bytes / 2**30:.2f}",
        f"{peer.peak_bytes / 2**30:.2f}",
        f"{comparison.memory_ratio:.2f} ×",
        _format_targets(case, comparison),
        f"{comparison.date}, {comparison.rounds} round{'s' if comparison.rounds > 1 else ''}, "
        f"{comparison.commit}",
    ]
    return f"| {' | '.join(cells)} |"


def _parse(fields: Mapping) -> Comparison:
    sides = {side: Measurement(**fields[side]) for side in ("jaxdistill", "peer")}
    return Comparison(**{**fields, **sides})


def _format_page(comparisons: Mapping[str, Comparison]) -> Iterator[str]:
    yield f"# Benchmarks\n\n{_INTRODUCTION}"
    yield f"| {' | '.join(_HEADER)} |"
    yield "|---" * len(_HEADER) + "|"
    yield from (format_row(CASES[name], comparison) for name, comparison in comparisons.items())
    for workload, peers, targets in PLANNED:
        yield f"| {workload} | {peers} |{' – |' * 6} planned ({targets}) | – |"
    yield "\n![Speed of jaxdistill relative to each peer](benchmarks.svg)\n"
    yield "[Performance](performance.md) shows where the time goes and why targets were missed.\n"


def _format_targets(case: Case, comparison: Comparison) -> str:
    """Format the targets of a case, and whether each is met."""
    targets = []
    if case.min_speed_ratio is not None:
        is_met = comparison.speed_ratio >= case.min_speed_ratio
        targets.append(f"{'met' if is_met else 'missed'} (≥ {case.min_speed_ratio:.3g} ×)")
    if case.max_memory_ratio is not None:
        is_met = comparison.memory_ratio <= case.max_memory_ratio
        targets.append(f"{'met' if is_met else 'missed'} (≤ {case.max_memory_ratio:g} ×)")
    return ", ".join(targets) or "none"


def _format_speed(measurement: Measurement) -> str:
    """Format the median, and the range if it was recorded."""
    median = _format_number(measurement.speed)
    if measurement.spread is None:
        return median
    return f"{median} ({'–'.join(map(_format_number, measurement.spread))})"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _write(name: str, text: str) -> None:
    with atomic_file(DOCS / name) as file:
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page(read_comparisons())
