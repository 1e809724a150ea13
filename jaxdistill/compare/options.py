"""What is compared, and how: the command line, read and checked before any weight is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdistill import run
from jaxdistill.data import DataConfig
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.files import check_writable

PAGE_FILE, METRICS_FILE, JUDGEMENTS_FILE = OUTPUT_FILES = (
    "index.html",
    "metrics.jsonl",
    "judgements.csv",
)
"""What a comparison writes."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
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
    def baseline(self) -> str:
        """The name of the model in use today."""
        return next(iter(self.models))

    @property
    def candidates(self) -> list[str]:
        """The names of the others."""
        return list(self.models)[1:]


def make_options(
    models: Sequence[str],
    *,
    sources: Sequence[str],
    out: str,
    data_options: dict[str, Any],
    prices: Sequence[str],
    **other_fields: Any,
) -> CompareOptions:
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
    findings = ErrorCollector()
    named: dict[str, str] = {}
    with findings.collect("compare"):
        named = _parse_models(models)
    priced: dict[str, float] = {}
    with findings.collect("--price"):
        priced = _parse_prices(prices, list(named)) if named else {}
    with findings.collect():
        check_writable(Path(out))
        check_output_folder(Path(out), other_fields.get("judgements"))
    findings.raise_if_any()
    config = DataConfig(
        sources=tuple(sources),
        heldout=0.0,
        truncation="drop",
        **_resolve_data_options(named, data_options),
    )
    return CompareOptions(models=named, data=config, out=Path(out), prices=priced, **other_fields)


def check_output_folder(out: Path, judgements: str | None) -> None:
    """See that nothing of the user's is lost when a folder is replaced.

    Raises:
        UserError: where it holds what no comparison wrote, or judgements that were not read.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file. Name a folder.")
    inside = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    # Desktops and spreadsheets leave hidden files wherever somebody looks.
    if foreign := [
        name for name in inside if name not in OUTPUT_FILES and not name.startswith(".")
    ]:
        raise UserError(
            f"--out: {out} holds {foreign[0]}, which no comparison wrote. Name a new folder."
        )
    judged = out / JUDGEMENTS_FILE
    is_read = judgements is not None and Path(judgements).resolve() == judged.resolve()
    if judged.is_file() and not is_read and _has_judgements(judged):
        raise UserError(
            f"--out: {judged} holds judgements, which would be lost. Read them with "
            f"`--judgements {judged}`, or name another folder."
        )


def _has_judgements(path: Path) -> bool:
    from jaxdistill.compare.judgement_csv import read_csv_rows

    try:
        return any(row["better"].strip() or row["note"].strip() for _, row in read_csv_rows(path))
    except UserError:
        return True  # somebody has worked on it


def _parse_models(models: Sequence[str]) -> dict[str, str]:
    if len(models) < 2:
        raise UserError(
            "there is one model, expected two or more: first the one in use, then those that "
            "might take its place."
        )
    found: dict[str, str] = {}
    for text in models:
        written = re.fullmatch(r"([\w.-]+)=(.+)", text)
        name, path = written.groups() if written else (_default_model_name(text), text)
        if name in found:
            raise UserError(
                f"two models are called {name}: {found[name]} and {path}. Give them names: "
                f"`{name}=PATH other={path}`."
            )
        found[name] = path
    return found


def _default_model_name(path: str) -> str:
    """What a model is called that was given no name: its folder, in letters that `NAME=` takes."""
    last = Path(path).expanduser().resolve().name.removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last).strip("-") or "model"


def _parse_prices(texts: Sequence[str], model_names: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in model_names:
            raise UserError(
                f"{text!r} prices {name!r}, which is none of {', '.join(model_names)}."
                f"{did_you_mean(name, model_names)}"
            )
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price < float("inf"):
            raise UserError(f"{text!r}: {number!r} is no price. Write `{name}=0.25`.")
        found[name] = price
    return found


def _resolve_data_options(models: dict[str, str], data_options: dict[str, Any]) -> dict[str, Any]:
    found, length = run.data_options(models, data_options), data_options.get("length")
    others = [path for path in models.values() if run.run_data_config(path) is None]
    longest = [run.check_max_positions(path, length, option="--length") for path in others]
    # What every model reads, unless it was asked for.
    return found if length else found | {"length": min([found["length"], *longest])}
