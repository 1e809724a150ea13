"""Every number of a comparison once, at full precision, and how each is said."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jaxdistill.evals import LOWER_IS_BETTER, Estimate
from jaxdistill.report import Quantity, format_bytes, format_fixed, format_percent
from jaxdistill.report.quantities import QUANTITIES as RUN_QUANTITIES

EstimatePart = Literal["value", "low", "high"]

ALL_MODELS = ""
"""Stands where a model's name would, in what is said of the whole comparison."""


@dataclass(frozen=True)
class MetricValue:
    """A number, and its 95 % interval if it has one.

    Attributes:
        model: Whose it is, by name; `ALL` for none.
        quantity: What it is, by its name in `QUANTITIES`.
        value: The number.
        low: Where the interval begins.
        high: Where it ends.
        bin: Of which words it holds; nothing for all of them.
    """

    model: str
    quantity: str
    value: float
    low: float | None = None
    high: float | None = None
    bin: str = ""


@dataclass(frozen=True)
class ShownMetric:
    """A number in a sentence, which a page marks as the one in the record.

    Attributes:
        line: Where it stands.
        text: How it is written.
        end: Which of the line's numbers it is.
    """

    metric: MetricValue
    text: str
    part: EstimatePart = "value"


Sentence = tuple[str | ShownMetric, ...]


def format_plain(sentence: Sentence) -> str:
    """A sentence as text."""
    return "".join(part if isinstance(part, str) else part.text for part in sentence)


def pluralize(number: ShownMetric, noun: str) -> Sentence:
    """A number of things: `1 row`, `2 rows`."""
    return (number, f" {noun}" if number.text == "1" else f" {noun}s")


class ComparisonMetrics:
    """The numbers of a comparison, in the order in which they were found.

    Args:
        currency: What prices are in.
    """

    def __init__(self, currency: str = "$"):
        self._lines: dict[tuple[str, str, str], MetricValue] = {}
        self._currency = currency

    def __iter__(self) -> Iterator[MetricValue]:
        return iter(self._lines.values())

    def add(
        self, model: str, quantity: str, value: float | int | Estimate, *, bin: str = ""
    ) -> MetricValue:
        """Note a number."""
        if isinstance(value, Estimate):
            line = MetricValue(model, quantity, value.value, value.low, value.high, bin)
        else:
            line = MetricValue(model, quantity, float(value), bin=bin)
        self._lines[model, quantity, bin] = line
        return line

    def get(self, model: str, quantity: str, *, bin: str = "") -> MetricValue | None:
        """The number, if it was noted."""
        return self._lines.get((model, quantity, bin))

    def quantity(self, name: str) -> Quantity:
        """What a quantity is called, and how it is written."""
        if name.startswith("task/"):
            metric = name.removeprefix("task/")
            better = "less" if metric in LOWER_IS_BETTER else "more"
            return Quantity(f"Task: {metric.replace('_', ' ')}", format_percent, better)
        found = QUANTITIES[name]
        if name in _PRICE_QUANTITIES:
            return Quantity(
                found.label, lambda price: self._currency + _format_price(price), found.better
            )
        return found

    def show(
        self, model: str, quantity: str, part: EstimatePart = "value", *, bin: str = ""
    ) -> ShownMetric:
        """A number that is there, as it is written in a sentence or a cell."""
        line = self._lines[model, quantity, bin]
        value = getattr(line, part)
        assert value is not None, f"{quantity} has no interval"
        return ShownMetric(line, self.quantity(quantity).format(value), part)

    def show_interval(self, model: str, quantity: str, *, bin: str = "") -> Sentence:
        """` [low, high]`, to stand after a number; nothing where it has no interval."""
        line = self._lines[model, quantity, bin]
        if line.low is None:
            return ()
        ends = (self.show(model, quantity, end, bin=bin) for end in ("low", "high"))
        low, high = ends
        return (" [", low, ", ", high, "]")

    def to_jsonl(self) -> str:
        """All of it, one JSON object a line; what a number does not have is left out.

        JSON has no word for what is not finite: null stands for it.
        """
        return "".join(
            json.dumps(
                {k: _null_if_not_finite(v) for k, v in vars(line).items() if v not in (None, "")}
            )
            + "\n"
            for line in self
        )


def _null_if_not_finite(value: float | str) -> float | str | None:
    return value if isinstance(value, str) or math.isfinite(value) else None


def _format_signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _format_signed_percent(value: float) -> str:
    # What is not quite nothing is not -100 %.
    digits = next((n for n in range(6) if round(value, 2 + n) != -1 or value == -1), 0)
    return f"{100 * value:+,.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _format_signed_points(value: float) -> str:
    return f"{100 * value:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _format_count(value: float) -> str:
    return f"{value:,.0f}"


def _format_price(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}"


def _format_short_percent(value: float) -> str:
    return f"{100 * value:g} %"


_PRICE_QUANTITIES = ("cost_per_million_tokens", "cost_per_million_words")

QUANTITIES: dict[str, Quantity] = {
    "bits_per_byte": Quantity("Bits per byte", format_fixed(3), "less"),
    "extra_bits_per_byte": Quantity("Extra beside the first", _format_signed, "less"),
    "kl_to_first": Quantity("KL to the first, nats", format_fixed(3), "less"),
    "top1_agreement": Quantity("Agrees with the first", format_percent, "more"),
    "top5_agreement": Quantity("First's word in top 5", format_percent, "more"),
    "preferred": Quantity("Preferred by people", format_percent, "more"),
    "words_per_second": Quantity("Words per second", format_fixed(1), "more"),
    "tokens_per_second": Quantity("Tokens per second", format_fixed(1), "more"),
    "first_token_seconds": Quantity("Seconds to first token", format_fixed(3), "less"),
    "peak_bytes": Quantity("Peak memory", format_bytes, "less"),
    "size_on_disk": Quantity("Size on disk", format_bytes, "less"),
    "num_parameters": RUN_QUANTITIES["num_parameters"],
    "cost_per_million_tokens": Quantity("Price of a million tokens", _format_price, "less"),
    "cost_per_million_words": Quantity("Price of a million words", _format_price, "less"),
    # what is said in sentences only
    "rows": Quantity("Rows compared", _format_count),
    "words": Quantity("Words compared", _format_count),
    "rows_read": Quantity("Rows read", _format_count),
    "rows_left_out": Quantity("Rows left out", _format_count),
    "blank_rows": Quantity("Rows of blanks", _format_count),
    "rows_in_other_words": Quantity("Rows in other words", _format_count),
    "rows_too_long": Quantity("Rows too long", _format_count),
    "rows_to_tell": Quantity("Rows that would tell", _format_count),
    "tolerance": Quantity("Tolerance", _format_short_percent),
    "least_saving": Quantity("Saving that counts", _format_short_percent),
    "accepted_extra": Quantity("Accepted", _format_signed),
    "task_loss": Quantity("Worse in the task", _format_signed_points, "less"),
    "accepted_task_loss": Quantity("Accepted in the task", _format_signed_points),
    "relative_price": Quantity("Price, beside the first", _format_signed_percent),
    "relative_speed": Quantity("Speed, beside the first", _format_signed_percent),
    "wins": Quantity("Judged better", _format_count),
    "ties": Quantity("Judged as good", _format_count),
    "losses": Quantity("Judged worse", _format_count),
    "not_judged": Quantity("Not judged", _format_count),
}

TABLE_SECTIONS: dict[str, tuple[str, ...]] = {
    "Quality": (
        "bits_per_byte",
        "extra_bits_per_byte",
        "kl_to_first",
        "top1_agreement",
        "top5_agreement",
        "task/",
        "preferred",
    ),
    "Price": ("cost_per_million_words", "cost_per_million_tokens"),
    "Speed and size": (
        "words_per_second",
        "tokens_per_second",
        "first_token_seconds",
        "peak_bytes",
        "size_on_disk",
        "num_parameters",
    ),
}
"""The table, part by part; a name that ends in `/` stands for all that begin so."""


def list_table_sections(metrics: ComparisonMetrics) -> dict[str, list[str]]:
    """The quantities of each part of the table that any model has."""
    there = list(dict.fromkeys(line.quantity for line in metrics if not line.bin))
    found = {
        group: [
            one
            for name in names
            for one in there
            if one == name or (name.endswith("/") and one.startswith(name))
        ]
        for group, names in TABLE_SECTIONS.items()
    }
    return {group: names for group, names in found.items() if names}
