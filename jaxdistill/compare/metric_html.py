"""Numbers and sentences of a comparison as HTML: each says which one of the record it is."""

from jaxdistill.compare.metrics import ComparisonMetrics, Sentence, ShownMetric
from jaxdistill.report import escape_html


def render_sentence(sentence: Sentence) -> str:
    """A sentence as HTML."""
    return "".join(
        escape_html(part) if isinstance(part, str) else _render_metric(part) for part in sentence
    )


def _render_metric(number: ShownMetric) -> str:
    line = number.metric
    names = {"model": line.model, "quantity": line.quantity, "bin": line.bin, "end": number.part}
    marks = "".join(f' data-{name}="{escape_html(text)}"' for name, text in names.items() if text)
    return f'<data value="{getattr(line, number.part)!r}"{marks}>{escape_html(number.text)}</data>'


def render_cell(metrics: ComparisonMetrics, model: str, quantity: str, *, bin: str = "") -> str:
    """A number and its interval as they stand in a table; a dash where there is none."""
    if metrics.get(model, quantity, bin=bin) is None:
        return '<span aria-label="none">–</span>'
    interval = render_sentence(metrics.show_interval(model, quantity, bin=bin))
    number = render_sentence((metrics.show(model, quantity, bin=bin),))
    return number + (f"<small>{interval}</small>" if interval else "")
