"""Metrics of a comparison at full precision, and their text."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from jaxdistill.evals import LOWER_IS_BETTER, Estimate
from jaxdistill.report import (
    MISSING,
    QUANTITIES,
    Quantity,
    TableRow,
    format_bytes,
    format_fixed,
    format_percent,
)

ALL_MODELS = ""
"""Model name of a value that belongs to the whole comparison."""

MIN_ROWS = 20
"""Fewer rows than these give no interval: it would say little about the next row."""


@dataclass(frozen=True)
class MetricValue:
    """Value of a quantity for a model or `ALL_MODELS`, with its 95 % interval or None.

    `bin` is the label of the words that the value covers, empty for all words.
    """

    model: str
    quantity: str
    value: float
    low: float | None = None
    high: float | None = None
    bin: str = ""

    @property
    def estimate(self) -> Estimate | None:
        """Value and interval; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return Estimate(self.value, self.low, self.high)


class ComparisonMetrics:
    """Metrics by model (the one in use first), quantity and bin of words, as they were added."""

    def __init__(self, models: Iterable[str], currency: str = "$"):
        self.models = tuple(models)
        self.baseline, *self.candidates = self.models
        self._metrics: dict[tuple[str, str, str], MetricValue] = {}
        self._currency = currency

    def __iter__(self) -> Iterator[MetricValue]:
        return iter(self._metrics.values())

    def add(
        self,
        model: str,
        quantity: str,
        value: float | int | Estimate,
        *,
        bin: str = "",
        num_rows: int | None = None,
    ) -> None:
        """Record a value, without its interval if it comes from fewer than `MIN_ROWS` rows."""
        if isinstance(value, Estimate) and num_rows is not None and num_rows < MIN_ROWS:
            value = value.value
        if isinstance(value, Estimate):
            metric = MetricValue(model, quantity, value.value, value.low, value.high, bin)
        else:
            metric = MetricValue(model, quantity, float(value), bin=bin)
        self._metrics[model, quantity, bin] = metric

    def get(self, model: str, quantity: str, *, bin: str = "") -> MetricValue | None:
        """Return a metric, or None if it was not recorded."""
        return self._metrics.get((model, quantity, bin))

    def value(self, model: str, quantity: str) -> float:
        """Return the value of a metric that was recorded."""
        return self._metrics[model, quantity, ""].value

    def quantity(self, name: str) -> Quantity:
        """Return the label, format and direction of a quantity."""
        if name.startswith("task/"):
            metric = name.removeprefix("task/")
            better = "lower" if metric in LOWER_IS_BETTER else "higher"
            return Quantity(f"Task: {metric.replace('_', ' ')}", format_percent, better)
        if name in _TEXT_FORMATS:
            return Quantity(name, _TEXT_FORMATS[name])
        quantity = next(section[name] for section in _TABLE.values() if name in section)
        if name.startswith("cost_per_million_"):
            return Quantity(quantity.label, self.format_price, quantity.better)
        return quantity

    def show(self, model: str, quantity: str, *, bin: str = "") -> str:
        """Return the text of a value that was recorded, without its interval."""
        return self.quantity(quantity).format(self._metrics[model, quantity, bin].value)

    def show_cell(self, model: str, quantity: str, *, bin: str = "") -> str:
        """Return `value [low, high]`, `value` without an interval, or a dash without a value."""
        metric = self.get(model, quantity, bin=bin)
        if metric is None:
            return MISSING
        ends = [
            self.quantity(quantity).format(x) for x in (metric.low, metric.high) if x is not None
        ]
        return self.show(model, quantity, bin=bin) + (f" [{', '.join(ends)}]" if ends else "")

    def table_sections(self) -> dict[str, list[TableRow]]:
        """Return the rows of the table by section: every quantity that any model has."""
        names = dict.fromkeys(metric.quantity for metric in self if not metric.bin)
        sections: dict[str, list[TableRow]] = {}
        for title, quantities in _TABLE.items():
            tasks = [n for n in names if n.startswith("task/")] if title == "Quality" else []
            for name in [*filter(names.__contains__, quantities), *tasks]:
                cells = [self.show_cell(model, name) for model in self.models]
                row = TableRow(self.quantity(name).label, self.quantity(name).direction, cells)
                sections.setdefault(title, []).append(row)
        return sections

    def to_jsonl(self) -> str:
        """Return one JSON object per metric, without empty fields.

        A value that is not finite becomes null, because JSON has no word for it.
        """
        lines = (
            {k: _null_if_not_finite(v) for k, v in vars(metric).items() if v not in (None, "")}
            for metric in self
        )
        return "".join(f"{json.dumps(line)}\n" for line in lines)

    def format_price(self, price: float) -> str:
        """Format a price, with four decimals below 1 if two do not hold it."""
        digits = 2 if price >= 1 or round(price, 2) == price else 4
        return f"{self._currency}{price:,.{digits}f}"


def _null_if_not_finite(value: float | str) -> float | str | None:
    return value if isinstance(value, str) or isfinite(value) else None


def pluralize(count: str, noun: str) -> str:
    """Return `1 row` or `2 rows`."""
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"


def _format_signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _format_signed_percent(value: float) -> str:
    # More digits, until a value above -100 % does not read "-100 %".
    digits = next((n for n in range(6) if round(value, 2 + n) != -1 or value == -1), 0)
    return f"{100 * value:+,.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _format_signed_points(value: float) -> str:
    return f"{100 * value:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _format_short_percent(value: float) -> str:
    return f"{100 * value:g} %"


_TABLE: Mapping[str, Mapping[str, Quantity]] = {
    "Quality": {
        "bits_per_byte": Quantity("Bits per byte", format_fixed(3), "lower"),
        "extra_bits_per_byte": Quantity("Extra beside the first", _format_signed, "lower"),
        "kl_to_first": Quantity("KL to the first, nats", format_fixed(3), "lower"),
        "top1_agreement": Quantity("Top-1 agreement with the first", format_percent, "higher"),
        "top5_agreement": Quantity("First's top-1 in top 5", format_percent, "higher"),
        "preferred": Quantity("Preferred by people", format_percent, "higher"),
    },
    "Price": {
        "cost_per_million_words": Quantity("Price of a million words", format_fixed(2), "lower"),
        "cost_per_million_tokens": Quantity("Price of a million tokens", format_fixed(2), "lower"),
    },
    "Speed and size": {
        "words_per_second": Quantity("Words per second", format_fixed(1), "higher"),
        "tokens_per_second": Quantity("Tokens per second", format_fixed(1), "higher"),
        "first_token_seconds": Quantity("Seconds to first token", format_fixed(3), "lower"),
        "peak_bytes": Quantity("Peak memory", format_bytes, "lower"),
        "size_on_disk": Quantity("Size on disk", format_bytes, "lower"),
        "num_parameters": QUANTITIES["num_parameters"],
    },
}
"""Quantities of the table by section; the metrics of a task join "Quality"."""

_COUNTS = (
    "rows",
    "words",
    "rows_read",
    "rows_left_out",
    "blank_rows",
    "rows_in_other_words",
    "rows_too_long",
    "wins",
    "ties",
    "losses",
    "not_judged",
)
_TEXT_FORMATS: Mapping[str, Callable[[float], str]] = {
    **dict.fromkeys(_COUNTS, format_fixed(0)),
    **dict.fromkeys(("tolerance", "least_saving"), _format_short_percent),
    **dict.fromkeys(("task_loss", "accepted_task_loss"), _format_signed_points),
    **dict.fromkeys(("relative_price", "relative_speed"), _format_signed_percent),
    "accepted_extra": _format_signed,
}
"""Formats of quantities that stand in sentences only."""
