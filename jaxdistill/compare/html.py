"""Numbers and sentences of a comparison as HTML: each says which one of the record it is."""

from jaxdistill.compare.record import Number, Record, Sentence
from jaxdistill.report import escaped


def said(sentence: Sentence) -> str:
    """A sentence as HTML."""
    return "".join(escaped(part) if isinstance(part, str) else _data(part) for part in sentence)


def _data(number: Number) -> str:
    line = number.line
    names = {"model": line.model, "quantity": line.quantity, "bin": line.bin, "end": number.end}
    marks = "".join(f' data-{name}="{escaped(text)}"' for name, text in names.items() if text)
    return f'<data value="{getattr(line, number.end)!r}"{marks}>{escaped(number.text)}</data>'


def cell(record: Record, model: str, quantity: str, *, bin: str = "") -> str:
    """A number and its interval as they stand in a table; a dash where there is none."""
    if record.get(model, quantity, bin=bin) is None:
        return '<span aria-label="none">–</span>'
    interval = said(record.interval(model, quantity, bin=bin))
    number = said((record.said(model, quantity, bin=bin),))
    return number + (f"<small>{interval}</small>" if interval else "")
