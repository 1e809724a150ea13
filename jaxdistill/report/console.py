"""The comparison and the samples on the console."""

from collections.abc import Sequence

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdistill.report.quantities import Comparison, Sample, strip_control_characters, table_rows

DIRECTION_ARROWS = {"less": " ↓", "more": " ↑", None: ""}
"""Which way is better."""


def print_comparison(comparison: Comparison, *, console: Console | None = None) -> None:
    """Print the models beside each other, a quantity a line."""
    lines = [
        (f"{quantity.label}{DIRECTION_ARROWS[quantity.better]}", *cells)
        for quantity, cells in table_rows(comparison)
    ]
    print_table(["", *comparison], lines, console=console)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console | None = None
) -> None:
    """Print lines of text in columns, all but the first flush right."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, head in enumerate(header):
        table.add_column(
            Text(strip_control_characters(head)), justify="right" if number else "left"
        )
    for line in rows:
        table.add_row(*(Text(strip_control_characters(cell)) for cell in line))
    _or_default_console(console).print(table)


def print_samples(samples: Sequence[Sample], *, console: Console | None = None) -> None:
    """Print each prompt and, below it, what every model answers."""
    out = _or_default_console(console)
    for sample in samples:
        out.print()
        out.print(Text(strip_control_characters(sample.prompt), style="bold"))
        for model, answer in sample.answers.items():
            # Text, not str: square brackets in a model's answer are no markup.
            out.print(Text(f"{strip_control_characters(model)}:", style="dim"))
            out.print(Text(strip_control_characters(answer.strip())))


def _or_default_console(console: Console | None) -> Console:
    return console or rich.get_console()
