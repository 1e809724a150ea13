"""Comparisons of models: the quantities of the table, and the text of their values."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Number = float | int

Comparison = Mapping[str, Mapping[str, Number]]
"""Quantities of each model by the names in `QUANTITIES`, in the order of the columns.

Example: `{"student before": {"nll": 4.1}, "student after": {"nll": 2.7}, "teacher": {...}}`.
"""

MISSING = "–"
"""Text of a cell without a value."""


@dataclass(frozen=True)
class Sample:
    """Completions of one prompt (as a person reads it), by model."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Quantity:
    """Label, format and direction of a row of the table.

    Attributes:
        label: Name with its unit.
        format: Function from a value to its text.
        better: "lower" or "higher" if one of them is better, else None.
    """

    label: str
    format: Callable[[Number], str]
    better: Literal["lower", "higher"] | None = None

    @property
    def direction(self) -> str:
        """`lower is better` or `higher is better`; empty if neither is."""
        return f"{self.better} is better" if self.better else ""


class TableRow(NamedTuple):
    """Row of a table, as text.

    Attributes:
        label: First cell.
        note: Small text below the label.
        cells: Other cells; an interval `[low, high]` at the end of a cell goes below its value.
        css_class: Class of the row.
    """

    label: str
    note: str
    cells: Sequence[str]
    css_class: str = ""


def format_fixed(digits: int) -> Callable[[Number], str]:
    """Return a format with a fixed number of decimals."""

    def format_value(value: Number) -> str:
        return "∞" if value == math.inf else f"{value:,.{digits}f}"

    return format_value


def format_perplexity(value: Number) -> str:
    """Format a perplexity; that of an untrained model may have any number of digits."""
    return format_fixed(2)(value) if value < 1e6 or value == math.inf else f"{value:.2e}"


def format_percent(value: Number) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * value:.1f} %"


def format_count(value: Number) -> str:
    """Format a count, in millions from 100,000 on."""
    return f"{value / 1e6:,.1f} M" if value >= 1e5 else f"{value:,.0f}"


def format_bytes(value: Number) -> str:
    """Format a number of bytes, in megabytes from 100,000 on."""
    return f"{value / 1e6:,.1f} MB" if value >= 1e5 else f"{value:,.0f} bytes"


QUANTITIES: Mapping[str, Quantity] = {
    "forward_kl": Quantity("KL to the teacher, nats", format_fixed(4), "lower"),
    "bits_per_byte": Quantity("Bits per byte", format_fixed(4), "lower"),
    "nll": Quantity("Cross-entropy, nats", format_fixed(4), "lower"),
    "perplexity": Quantity("Perplexity", format_perplexity, "lower"),
    "accuracy": Quantity("Token accuracy", format_percent, "higher"),
    "digit_accuracy": Quantity("Digit accuracy", format_percent, "higher"),
    "acceptance": Quantity("Acceptance as draft tokens", format_percent, "higher"),
    "top1_agreement": Quantity("Top-1 agreement", format_percent, "higher"),
    "top5_agreement": Quantity("Teacher's top-1 in student's top 5", format_percent, "higher"),
    "calibration_error": Quantity("Calibration error", format_percent, "lower"),
    "repeated_4grams": Quantity("Repeated 4-grams", format_percent, "lower"),
    "num_parameters": Quantity("Parameters", format_count),
    "size_on_disk": Quantity("Size on disk", format_bytes),
    "gguf_size": Quantity("GGUF file on disk", format_bytes),
    "peak_bytes": Quantity("Peak memory", format_bytes),
    "first_token_seconds": Quantity("Seconds to first token", format_fixed(3)),
    "tokens_per_second": Quantity("Tokens per second", format_fixed(1)),
}


def table_rows(comparison: Comparison) -> list[TableRow]:
    """Return the rows of the table: the quantities that any model has, in the order above."""
    return [
        TableRow(
            quantity.label,
            quantity.direction,
            [
                quantity.format(values[name]) if name in values else MISSING
                for values in comparison.values()
            ],
        )
        for name, quantity in QUANTITIES.items()
        if any(name in values for values in comparison.values())
    ]


def strip_control_characters(text: str) -> str:
    """Replace control characters, with which a model could steer a terminal or turn text around."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "\ufffd", text)
