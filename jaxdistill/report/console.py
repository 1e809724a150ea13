"""The comparison and the samples on the console."""

from collections.abc import Sequence

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdistill.report.comparison import Comparison, Sample, printable, rows

_ARROWS = {"less": " ↓", "more": " ↑", None: ""}
"""Which way is better."""


def print_comparison(comparison: Comparison, *, console: Console | None = None) -> None:
    """Print the models beside each other, a quantity a line."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for model in comparison:
        table.add_column(Text(printable(model)), justify="right")
    for quantity, cells in rows(comparison):
        table.add_row(f"{quantity.label}{_ARROWS[quantity.better]}", *cells)
    _console(console).print(table)


def print_samples(samples: Sequence[Sample], *, console: Console | None = None) -> None:
    """Print each prompt and, below it, what every model answers."""
    out = _console(console)
    for sample in samples:
        out.print()
        out.print(Text(printable(sample.prompt), style="bold"))
        for model, answer in sample.answers.items():
            # Text, not str: square brackets in a model's answer are no markup.
            out.print(Text(f"{printable(model)}:", style="dim"))
            out.print(Text(printable(answer.strip())))


def _console(console: Console | None) -> Console:
    return console or rich.get_console()
