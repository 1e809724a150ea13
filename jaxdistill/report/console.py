"""Tables and samples on the console."""

from collections.abc import Iterable, Sequence

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdistill.report.quantities import Sample, TableRow, strip_control_characters

_DIRECTION_ARROWS = {"lower is better": " ↓", "higher is better": " ↑"}


def print_table(
    models: Iterable[str], rows: Iterable[TableRow], *, console: Console | None = None
) -> None:
    """Print rows of quantities, with an arrow in the direction that is better."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for model in models:
        table.add_column(_plain_text(model), justify="right")
    for row in rows:
        label = row.label + _DIRECTION_ARROWS.get(row.note, "")
        table.add_row(*(_plain_text(cell) for cell in (label, *row.cells)))
    (console or rich.get_console()).print(table)


def print_samples(samples: Sequence[Sample], *, console: Console | None = None) -> None:
    """Print each prompt and, below it, the completion of every model."""
    console = console or rich.get_console()
    for sample in samples:
        console.print()
        console.print(_plain_text(sample.prompt, style="bold"))
        for model, completion in sample.answers.items():
            console.print(_plain_text(f"{model}:", style="dim"))
            console.print(_plain_text(completion.strip()))


def _plain_text(text: str, *, style: str = "") -> Text:
    # Text, not str: square brackets in a completion are no markup.
    return Text(strip_control_characters(text), style=style)
