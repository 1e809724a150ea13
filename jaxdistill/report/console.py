"""Tables and samples on the console."""

from collections.abc import Iterable, Sequence

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdistill.data import RowPreview
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


def print_previews(previews: Sequence[RowPreview], *, console: Console | None = None) -> None:
    """Print rows as the models will read them; what is learned stands between ⟦ and ⟧."""
    console = console or rich.get_console()
    for preview in previews:
        console.print()
        console.print(_plain_text(_preview_heading(preview), style="bold"))
        for model, view in (("student", preview.student), ("teacher", preview.teacher)):
            if view is None or not view.tokens:
                continue
            learned = f"{sum(view.loss_mask)} of {len(view.tokens)} tokens learned"
            console.print(_plain_text(f"{model}: {learned}", style="dim"))
            parts = [
                _plain_text(f"⟦{part.text}⟧", style="green")
                if part.is_learned
                else _plain_text(part.text)
                for part in view.segments
            ]
            console.print(Text.assemble(*parts))
            console.print(_plain_text(" ".join(map(str, view.tokens)), style="dim"))


def _preview_heading(preview: RowPreview) -> str:
    facts = [
        preview.source,
        "held out" if preview.is_heldout else "",
        f"{preview.cut_tokens} tokens cut" if preview.cut_tokens else "",
        preview.note,
    ]
    return " · ".join(filter(None, facts))


def _plain_text(text: str, *, style: str = "") -> Text:
    # Text, not str: square brackets in a completion are no markup.
    return Text(strip_control_characters(text), style=style)
