"""Models beside each other: the quantities worth comparing, and how each is written."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Number = float | int

Comparison = Mapping[str, Mapping[str, Number]]
"""Quantities of each model by the names in `QUANTITIES`; models in the order to be shown.

Example: `{"student before": {"nll": 4.1}, "student after": {"nll": 2.7}, "teacher": {...}}`.
"""

MISSING = "–"
"""What is shown where a model has no such quantity."""


@dataclass(frozen=True)
class Sample:
    """What every model answers to one prompt.

    Attributes:
        prompt: The prompt as a person reads it.
        answers: The text of each model, by the names of the `Comparison`.
    """

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Quantity:
    """One line of the table.

    Attributes:
        label: What it is called, with its unit.
        write: Turns a value into text.
        better: Which way is better, if one is: "less" or "more".
    """

    label: str
    format: Callable[[Number], str]
    better: Literal["less", "more"] | None = None

    @property
    def direction(self) -> str:
        """Which way is better, in words; nothing where none is."""
        return f"{self.better} is better" if self.better else ""


def format_fixed(digits: int) -> Callable[[Number], str]:
    """Writes so many digits after the point."""

    def write(value: Number) -> str:
        return "∞" if value == math.inf else f"{value:,.{digits}f}"

    return write


def format_percent(value: Number) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.1f} %"


def format_count(value: Number) -> str:
    """A count, in millions where it is large."""
    return f"{value / 1e6:,.1f} M" if value >= 1e5 else f"{value:,.0f}"


def format_bytes(value: Number) -> str:
    """Bytes, in megabytes where they are many."""
    return f"{value / 1e6:,.1f} MB" if value >= 1e5 else f"{value:,.0f} bytes"


QUANTITIES: Mapping[str, Quantity] = {
    "forward_kl": Quantity("KL to the teacher, nats", format_fixed(4), "less"),
    "bits_per_byte": Quantity("Bits per byte", format_fixed(4), "less"),
    "nll": Quantity("Cross-entropy, nats", format_fixed(4), "less"),
    "perplexity": Quantity("Perplexity", format_fixed(2), "less"),
    "accuracy": Quantity("Next words guessed", format_percent, "more"),
    "digit_accuracy": Quantity("Digits guessed", format_percent, "more"),
    "top1_agreement": Quantity("Top-1 agreement", format_percent, "more"),
    "top5_agreement": Quantity("Teacher's word in top 5", format_percent, "more"),
    "calibration_error": Quantity("Calibration error", format_percent, "less"),
    "num_parameters": Quantity("Parameters", format_count),
    "size_on_disk": Quantity("Size on disk", format_bytes),
    "peak_bytes": Quantity("Peak memory", format_bytes),
    "first_token_seconds": Quantity("Seconds to first token", format_fixed(3)),
    "tokens_per_second": Quantity("Tokens per second", format_fixed(1)),
}


def table_rows(comparison: Comparison) -> list[tuple[Quantity, list[str]]]:
    """The lines of the table: those quantities that any model has, in the order above."""
    return [
        (quantity, [_format_cell(quantity, values.get(name)) for values in comparison.values()])
        for name, quantity in QUANTITIES.items()
        if any(name in values for values in comparison.values())
    ]


def models(samples: Sequence[Sample]) -> list[str]:
    """The models that answer in any sample, in order."""
    return list(dict.fromkeys(name for sample in samples for name in sample.answers))


def strip_control_characters(text: str) -> str:
    """`text` without control characters: a model may write what would steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "\ufffd", text)


def _format_cell(quantity: Quantity, value: Number | None) -> str:
    return MISSING if value is None else quantity.format(value)
