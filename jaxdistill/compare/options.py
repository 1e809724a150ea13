"""Options of a comparison, read from a command line and checked before any weight is loaded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdistill import run
from jaxdistill.data import DataConfig
from jaxdistill.errors import ErrorCollector, UserError, did_you_mean
from jaxdistill.files import check_writable


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of a comparison.

    Attributes:
        models: Path of each model by name; the first is the model in use.
        prompts: Number of prompts whose completions stand side by side.
        max_new_tokens: Maximum length of a completion.
        task: YAML file of a task, whose first metric counts as quality; None for none.
        machine_price: Price of an hour of this machine; None if unknown.
        prices: Price of a million tokens, for hosted models.
        tolerance: Accepted loss of quality, as a fraction of the first model's bits per byte, and
            of its score in the task.
        judgements: Filled-in sheet of an earlier comparison of these models; None for none.
        command: Command line of the comparison, for the page; empty if there is none.
    """

    models: Mapping[str, str]
    data: DataConfig
    out: Path
    prompts: int = 8
    max_new_tokens: int = 64
    batch_size: int = 8
    task: str | None = None
    machine_price: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    currency: str = "$"
    tolerance: float = 0.05
    judgements: str | None = None
    command: str = ""


def make_options(
    models: Sequence[str],
    *,
    sources: Sequence[str],
    out: str,
    data_options: Mapping[str, Any],
    prices: Sequence[str],
    **other_fields: Any,
) -> CompareOptions:
    """Read and check the options of a command line.

    Args:
        models: `PATH` or `NAME=PATH` of each model.
        sources: Files of the rows.
        out: Output folder.
        data_options: `length`, `loss_on` and `prompt_template`; None means the value of the run
            among the models, or the default without one.
        prices: `NAME=PRICE` of each hosted model.
        **other_fields: Further fields of `CompareOptions`.

    Raises:
        UserError: with all mistakes.
    """
    errors = ErrorCollector()
    paths, prices_by_name = dict[str, str](), dict[str, float]()
    with errors.collect():
        paths = _parse_models(models)
    with errors.collect():
        prices_by_name = _parse_prices(prices, list(paths)) if paths else {}
    with errors.collect():
        check_writable(Path(out))
        if Path(out).exists() and not Path(out).is_dir():
            raise UserError(f"--out: {out} is a file. Name a folder.")
    errors.raise_if_any()
    resolved, length = run.resolve_data_options(paths, data_options), data_options.get("length")
    max_positions = [
        run.check_max_positions(path, length, option="--length")
        for path in paths.values()
        if run.run_data_config(path) is None
    ]
    if length is None:  # by default no longer than every model reads
        resolved["length"] = min([resolved["length"], *max_positions])
    config = DataConfig(sources=tuple(sources), heldout=0.0, truncation="drop", **resolved)
    return CompareOptions(
        models=paths, data=config, out=Path(out), prices=prices_by_name, **other_fields
    )


def _parse_models(texts: Sequence[str]) -> dict[str, str]:
    if len(texts) < 2:
        raise UserError(
            "compare: there is one model, expected two or more: first the one in use, then those "
            "that might take its place."
        )
    paths: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(r"([\w.-]+)=(.+)", text)
        name, path = match.groups() if match else (_default_model_name(text), text)
        if name in paths:
            raise UserError(
                f"compare: two models are called {name}: {paths[name]} and {path}. Give them "
                f"names: `{name}=PATH other={path}`."
            )
        paths[name] = path
    return paths


def _default_model_name(path: str) -> str:
    """Return the name of the folder, in characters that `NAME=` allows."""
    name = Path(path).expanduser().resolve().name.removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "model"


def _parse_prices(texts: Sequence[str], model_names: list[str]) -> dict[str, float]:
    prices = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in model_names:
            raise UserError(
                f"--price: {text!r} prices {name!r}, which is none of {', '.join(model_names)}."
                f"{did_you_mean(name, model_names)}"
            )
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price < float("inf"):
            raise UserError(f"--price: {text!r}: {number!r} is no price. Write `{name}=0.25`.")
        prices[name] = price
    return prices
