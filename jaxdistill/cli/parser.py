"""Command-line parser: the options of every command."""

import argparse
import math
from collections.abc import Callable
from typing import NoReturn, TypeVar

from jaxdistill import __version__
from jaxdistill.cli import commands
from jaxdistill.errors import printable_line

_MODEL_HELP = "a folder, .gguf file, run folder or hub name"


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are one line, whatever the arguments hold."""

    def error(self, message: str) -> NoReturn:
        super().error(printable_line(message))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; parsed options hold the function of their command as `command`."""
    top = _Parser(
        prog="jaxdistill",
        description="Distil large language models into small ones, with JAX.",
    )
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for name, command, add_options in (
        ("train", commands.train, _add_run_options),
        ("check", commands.check, _add_check_options),
        ("plan", commands.plan, _add_plan_options),
        ("study", commands.study, _add_run_options),
        ("compare", commands.compare, _add_compare_options),
        ("eval", commands.evaluate, _add_eval_options),
        ("cost", commands.cost, _add_cost_options),
        ("generate", commands.generate, _add_generate_options),
        ("export", commands.export, _add_export_options),
        ("fetch", commands.fetch, _add_fetch_options),
        ("explain", commands.explain, _add_explain_options),
    ):
        assert command.__doc__, "the docstring is the help of the command"
        summary = command.__doc__.rstrip(".")
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(command=command)
        add_options(subparser)
    return top


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", help="a YAML file, e.g. configs/quickstart.yaml")
    command.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields to change")


def _add_check_options(command: argparse.ArgumentParser) -> None:
    _add_run_options(command)
    examples = "also show the first N rows as the models read them, with what is learned"
    command.add_argument("--examples", type=_positive_int, metavar="N", help=examples)
    command.add_argument("--json", action="store_true", help="only these rows, an object a line")


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    _add_run_options(command)
    topologies = "devices to compile for, e.g. v5e:4x4, cpu:8 or gpu:h100x8; may be repeated"
    add("--topology", action="append", required=True, metavar="NAME", help=topologies)
    meshes = "a mesh in place of the config's, e.g. fsdp=8,tensor=2; may be repeated"
    add("--mesh", action="append", default=[], metavar="AXIS=N,...", help=meshes)
    add("--search", action="store_true", help="find the largest micro-batch that fits")
    add("--price", type=_non_negative_float, metavar="P", help="of a chip and hour")
    add("--json", action="store_true", help="print one JSON object")


def _add_compare_options(compare: argparse.ArgumentParser) -> None:
    add = compare.add_argument
    models = "the model in use, then its candidates: folders, .gguf files, runs, names"
    add("models", nargs="+", metavar="[NAME=]MODEL", help=models)
    add("--data", required=True, nargs="+", metavar="FILE", help="JSONL, Parquet or folder")
    _add_data_options(compare)
    add("--out", required=True, metavar="DIR", help="folder of the page")
    add("--prompts", type=_positive_int, default=8, metavar="N", help="shown side by side")
    add("--max-new-tokens", type=_positive_int, default=64, metavar="N")
    add("--machine-price", type=_non_negative_float, metavar="P", help="per hour of this machine")
    prices = "per million tokens of a hosted model; may be repeated"
    add("--price", action="append", default=[], metavar="NAME=P", help=prices)
    add("--currency", default="$", help="currency of the prices")
    tolerance = "accepted loss: a fraction of the first model's bits per byte, and of its score"
    add("--tolerance", type=_non_negative_float, default=0.05, metavar="T", help=tolerance)
    judgements = "the filled-in judgements.csv of the same comparison"
    add("--judgements", metavar="FILE", help=judgements)


def _add_eval_options(evaluate: argparse.ArgumentParser) -> None:
    add = evaluate.add_argument
    _add_model_options(evaluate)
    add("--teacher", metavar="DIR", help="compare with this model's distribution")
    by_position = "means of every N positions, too"
    add("--by-position", type=_positive_int, metavar="N", help=by_position)
    inputs = evaluate.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--data", nargs="+", metavar="FILE", help="JSONL, Parquet or folder")
    tasks = "tasks of lm-evaluation-harness, by name"
    inputs.add_argument("--lm-eval", nargs="+", metavar="TASK", help=tasks)
    add("--include-path", metavar="DIR", help="folder of more tasks for --lm-eval")
    add("--limit", type=_positive_int, metavar="N", help="rows of each --lm-eval task")
    fewshot = "examples in each prompt (default: the task's)"
    add("--fewshot", type=_non_negative_int, metavar="N", help=fewshot)
    _add_data_options(evaluate)
    add("--json", action="store_true", help="one JSON object as the last line")


def _add_cost_options(cost: argparse.ArgumentParser) -> None:
    add = cost.add_argument
    _add_model_options(cost)
    add("--runtime", choices=("jax", "torch"), default="jax", help="torch: PyTorch transformers")
    add("--prompt-tokens", type=_positive_int, default=32, metavar="N")
    add("--new-tokens", type=_positive_int, default=64, metavar="N")
    add("--batch-size", type=_positive_int, default=1, metavar="N")
    add("--json", action="store_true", help="one JSON object as the last line")


def _add_generate_options(generate: argparse.ArgumentParser) -> None:
    add = generate.add_argument
    _add_model_options(generate)
    add("--prompt", action="append", metavar="TEXT", help="may be repeated (default: stdin)")
    add("--chat", action=argparse.BooleanOptionalAction, default=None)
    add("--max-new-tokens", type=_positive_int, default=128, metavar="N")
    add("--temperature", type=_non_negative_float, default=0.0, help="0: greedy")
    add("--top-k", type=_non_negative_int, default=0, metavar="N", help="0: all tokens")
    add("--top-p", type=_probability, default=1.0)
    add("--seed", type=_non_negative_int, default=0, metavar="N")


def _add_export_options(export: argparse.ArgumentParser) -> None:
    add = export.add_argument
    add("--model", required=True, metavar="DIR", help=_MODEL_HELP)
    add("--out", required=True, metavar="PATH", help="a folder; or a .gguf file for format gguf")
    add("--format", choices=("safetensors", "torch", "gguf"), default="safetensors")
    dtypes = "float32, bfloat16 or float16 (default: as stored); for gguf f16 (default), q8_0, q4_1"
    add("--dtype", help=dtypes)


def _add_fetch_options(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("name", help="e.g. smollm2-135m-instruct")
    fetch.add_argument("--out", default="models", metavar="DIR")


def _add_data_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    task = "score completions: a YAML file, e.g. configs/tasks/gsm8k.yaml"
    add("--task", metavar="FILE", help=task)
    length = "longest sequence (default: the run's, or 512)"
    add("--length", type=_positive_int, metavar="N", help=length)
    add("--batch-size", type=_positive_int, default=8, metavar="N")
    loss_on = "scored tokens (default: the run's, or completion)"
    add("--loss-on", choices=("completion", "all"), help=loss_on)
    template = "format of prompts (default: the run's, or plain)"
    add("--prompt-template", choices=("plain", "chat"), help=template)


def _add_explain_options(command: argparse.ArgumentParser) -> None:
    names = "a section, a type or a field: data, uld, train.steps (default: everything)"
    command.add_argument("names", nargs="*", metavar="NAME", help=names)


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", required=True, metavar="DIR", help=_MODEL_HELP)
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def _positive_int(text: str) -> int:
    return _parse_number(text, int, lambda value: value > 0, "a whole number above 0")


def _non_negative_int(text: str) -> int:
    largest = 2**32 - 1
    expected = f"a whole number from 0 to {largest}"
    return _parse_number(text, int, lambda value: 0 <= value <= largest, expected)


def _non_negative_float(text: str) -> float:
    return _parse_number(text, float, lambda value: 0 <= value < math.inf, "a number from 0")


def _probability(text: str) -> float:
    return _parse_number(text, float, lambda value: 1e-6 <= value <= 1, "a number from 1e-6 to 1")


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
