"""What is compared, and how: the command line, read and checked before any weight is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdistill import run
from jaxdistill.data import DataConfig
from jaxdistill.errors import Findings, UserError, nearest
from jaxdistill.files import check_directory

PAGE, NUMBERS, SHEET = FILES = ("index.html", "metrics.jsonl", "judgements.csv")
"""What a comparison writes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A comparison.

    Attributes:
        models: Where each model is, by its name; the first is the one in use today.
        data: Which rows they read, and how.
        out: The folder that is written.
        prompts: How many prompts they answer side by side.
        max_new_tokens: How long an answer may be.
        batch_size: How many sequences go through a model together.
        task: A task's YAML file, whose first metric counts as quality, beside bits per byte.
        machine_price: Of an hour of this machine.
        prices: Of a million tokens, for models that are paid so.
        currency: What prices are in.
        tolerance: How much worse a model may be: a fraction of the first one's bits per byte, and
            of its score in the task.
        judgements: People's judgements on an earlier comparison of these models.
    """

    models: dict[str, str]
    data: DataConfig
    out: Path
    prompts: int = 8
    max_new_tokens: int = 64
    batch_size: int = 8
    task: str | None = None
    machine_price: float | None = None
    prices: dict[str, float] = field(default_factory=dict)
    currency: str = "$"
    tolerance: float = 0.05
    judgements: str | None = None

    @property
    def first(self) -> str:
        """The name of the model in use today."""
        return next(iter(self.models))

    @property
    def candidates(self) -> list[str]:
        """The names of the others."""
        return list(self.models)[1:]


def options(
    models: Sequence[str],
    *,
    sources: Sequence[str],
    out: str,
    reading: dict[str, Any],
    prices: Sequence[str],
    **others: Any,
) -> Options:
    """The options as a command line has them.

    Args:
        models: `PATH` or `NAME=PATH` of each.
        sources: Where the rows are.
        out: The folder to write.
        reading: `length`, `loss_on` and `prompt_template`; None means as the run among the
            models has it, or the default where there is none.
        prices: `NAME=PRICE` of each model that has one.
        **others: Further fields of `Options`.

    Raises:
        UserError: with all that is wrong.
    """
    findings = Findings()
    named: dict[str, str] = {}
    with findings.collect("compare"):
        named = _named(models)
    priced: dict[str, float] = {}
    with findings.collect("--price"):
        priced = _prices(prices, list(named)) if named else {}
    with findings.collect():
        check_directory(Path(out))
        check_out(Path(out), others.get("judgements"))
    findings.raise_any()
    config = DataConfig(
        sources=tuple(sources), heldout=0.0, truncation="drop", **_reading(named, reading)
    )
    return Options(models=named, data=config, out=Path(out), prices=priced, **others)


def check_out(out: Path, judgements: str | None) -> None:
    """See that nothing of the user's is lost when a folder is replaced.

    Raises:
        UserError: where it holds what no comparison wrote, or judgements that were not read.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file. Name a folder.")
    inside = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    # Desktops and spreadsheets leave hidden files wherever somebody looks.
    if foreign := [name for name in inside if name not in FILES and not name.startswith(".")]:
        raise UserError(
            f"--out: {out} holds {foreign[0]}, which no comparison wrote. Name a new folder."
        )
    judged = out / SHEET
    is_read = judgements is not None and Path(judgements).resolve() == judged.resolve()
    if judged.is_file() and not is_read and _has_judgements(judged):
        raise UserError(
            f"--out: {judged} holds judgements, which would be lost. Read them with "
            f"`--judgements {judged}`, or name another folder."
        )


def _has_judgements(path: Path) -> bool:
    from jaxdistill.compare.sheet import sheet

    try:
        return any(row["better"].strip() or row["note"].strip() for _, row in sheet(path))
    except UserError:
        return True  # somebody has worked on it


def _named(models: Sequence[str]) -> dict[str, str]:
    if len(models) < 2:
        raise UserError(
            "there is one model, expected two or more: first the one in use, then those that "
            "might take its place."
        )
    found: dict[str, str] = {}
    for text in models:
        written = re.fullmatch(r"([\w.-]+)=(.+)", text)
        name, path = written.groups() if written else (_name(text), text)
        if name in found:
            raise UserError(
                f"two models are called {name}: {found[name]} and {path}. Give them names: "
                f"`{name}=PATH other={path}`."
            )
        found[name] = path
    return found


def _name(path: str) -> str:
    """What a model is called that was given no name: its folder, in letters that `NAME=` takes."""
    last = Path(path).expanduser().resolve().name.removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last).strip("-") or "model"


def _prices(texts: Sequence[str], names: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names:
            raise UserError(
                f"{text!r} prices {name!r}, which is none of {', '.join(names)}."
                f"{nearest(name, names)}"
            )
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price < float("inf"):
            raise UserError(f"{text!r}: {number!r} is no price. Write `{name}=0.25`.")
        found[name] = price
    return found


def _reading(models: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    found, length = run.reading(models, given), given.get("length")
    others = [path for path in models.values() if run.trained_on(path) is None]
    longest = [run.check_reads(path, length, option="--length") for path in others]
    # What every model reads, unless it was asked for.
    return found if length else found | {"length": min([found["length"], *longest])}
