"""The options of each command."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from jaxdistill import __version__
from jaxdistill.cli import commands


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; what is parsed has its command's function as `command`."""
    top = argparse.ArgumentParser(
        prog="jaxdistill",
        description="Distil large language models into small ones, with JAX.",
    )
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for name, command, add_options in (
        ("train", commands.train, _add_run_options),
        ("check", commands.check, _add_run_options),
        ("study", commands.study, _add_run_options),
        ("compare", commands.compare, _add_compare_options),
        ("eval", commands.evaluate, _add_eval_options),
        ("cost", commands.cost, _add_cost_options),
        ("generate", commands.generate, _add_generate_options),
        ("export", commands.export, _add_export_options),
        ("fetch", commands.fetch, _add_fetch_options),
        ("explain", commands.explain, _add_explain_options),
    ):
        assert command.__doc__, "it is the help of the command"
        what = command.__doc__.rstrip(".")
        subparser = subparsers.add_parser(name, help=what, description=what)
        subparser.set_defaults(command=command)
        add_options(subparser)
    return top


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", help="a YAML file, e.g. configs/quickstart.yaml")
    command.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields to change")


def _add_compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="the model in use, then what might take its place: folders, .gguf files, runs, names",
    )
    compare.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="JSONL, Parquet or folder"
    )
    _add_data_options(compare)
    compare.add_argument("--out", required=True, metavar="DIR", help="where the page is written")
    compare.add_argument(
        "--prompts", type=_positive_int, default=8, metavar="N", help="side by side"
    )
    compare.add_argument("--max-new-tokens", type=_positive_int, default=64, metavar="N")
    compare.add_argument(
        "--machine-price", type=_non_negative_float, metavar="P", help="of an hour of this machine"
    )
    compare.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=P",
        help="of a million tokens of a hosted model; may be repeated",
    )
    compare.add_argument("--currency", default="$", help="what prices are in")
    compare.add_argument(
        "--tolerance",
        type=_non_negative_float,
        default=0.05,
        metavar="T",
        help="how much worse is accepted: a fraction of the first model's bits per byte, and score",
    )
    compare.add_argument(
        "--judgements", metavar="FILE", help="the filled-in judgements.csv of the same comparison"
    )


def _add_eval_options(evaluate: argparse.ArgumentParser) -> None:
    _add_model_options(evaluate)
    evaluate.add_argument("--teacher", metavar="DIR", help="compare with this model's distribution")
    asked = evaluate.add_mutually_exclusive_group(required=True)
    asked.add_argument("--data", nargs="+", metavar="FILE", help="JSONL, Parquet or folder")
    asked.add_argument(
        "--lm-eval", nargs="+", metavar="TASK", help="tasks of lm-evaluation-harness, by name"
    )
    evaluate.add_argument("--include-path", metavar="DIR", help="more tasks for --lm-eval")
    evaluate.add_argument("--limit", type=_positive_int, metavar="N", help="rows of each such task")
    evaluate.add_argument(
        "--fewshot",
        type=_non_negative_int,
        metavar="N",
        help="solved rows before each (as the task)",
    )
    _add_data_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="one JSON object as the last line")


def _add_cost_options(cost: argparse.ArgumentParser) -> None:
    _add_model_options(cost)
    cost.add_argument(
        "--runtime", choices=("jax", "torch"), default="jax", help="torch is PyTorch transformers"
    )
    cost.add_argument("--prompt-tokens", type=_positive_int, default=32, metavar="N")
    cost.add_argument("--new-tokens", type=_positive_int, default=64, metavar="N")
    cost.add_argument("--batch-size", type=_positive_int, default=1, metavar="N")
    cost.add_argument("--json", action="store_true", help="one JSON object as the last line")


def _add_generate_options(generate: argparse.ArgumentParser) -> None:
    _add_model_options(generate)
    generate.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    generate.add_argument("--chat", action=argparse.BooleanOptionalAction, default=None)
    generate.add_argument("--max-new-tokens", type=_positive_int, default=128, metavar="N")
    generate.add_argument(
        "--temperature", type=_non_negative_float, default=0.0, help="0 is greedy"
    )
    generate.add_argument(
        "--top-k", type=_non_negative_int, default=0, metavar="N", help="0 is all"
    )
    generate.add_argument("--top-p", type=_probability, default=1.0)
    generate.add_argument("--seed", type=_non_negative_int, default=0, metavar="N")


def _add_export_options(export: argparse.ArgumentParser) -> None:
    _add_model_options(export, dtype=None)
    export.add_argument("--out", required=True, metavar="DIR")
    export.add_argument("--format", choices=("safetensors", "torch"), default="safetensors")


def _add_fetch_options(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("name", help="e.g. smollm2-135m-instruct")
    fetch.add_argument("--out", default="models", metavar="DIR")


def _add_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--task", metavar="FILE", help="score answers: a YAML file, e.g. configs/tasks/gsm8k.yaml"
    )
    command.add_argument(
        "--length",
        type=_positive_int,
        metavar="N",
        help="longest sequence (as the run, or 512)",
    )
    command.add_argument("--batch-size", type=_positive_int, default=8, metavar="N")
    command.add_argument(
        "--loss-on", choices=("completion", "all"), help="as the run, or completion"
    )
    command.add_argument(
        "--prompt-template", choices=("plain", "chat"), help="as the run, or plain"
    )


def _add_explain_options(command: argparse.ArgumentParser) -> None:
    what = "a place, a choice or a field: data, uld, train.steps; everything without one"
    command.add_argument("names", nargs="*", metavar="NAME", help=what)


def _add_model_options(command: argparse.ArgumentParser, *, dtype: str | None = "float32") -> None:
    command.add_argument(
        "--model", required=True, metavar="DIR", help="a folder, .gguf file, run folder or hub name"
    )
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=dtype)


def _positive_int(text: str) -> int:
    return _parse_number(text, int, lambda value: value > 0, "a whole number above 0")


def _non_negative_int(text: str) -> int:
    most = 2**32 - 1
    return _parse_number(
        text, int, lambda value: 0 <= value <= most, f"a whole number from 0 to {most}"
    )


def _non_negative_float(text: str) -> float:
    return _parse_number(text, float, lambda value: 0 <= value < math.inf, "a number from 0")


def _probability(text: str) -> float:
    return _parse_number(text, float, lambda value: 0 < value <= 1, "a number above 0, at most 1")


_Number = TypeVar("_Number", int, float)


def _parse_number(
    text: str,
    number_type: Callable[[str], _Number],
    is_valid: Callable[[_Number], bool],
    expected: str,
) -> _Number:
    try:
        value = number_type(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
