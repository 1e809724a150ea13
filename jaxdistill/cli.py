"""Commands: `jaxdistill train | study | compare | eval | cost | generate | export | check | fetch`.

Each command imports its rooms when it runs, so that `--help` answers at once. What the user can
mend ends in one line a finding and exit code 2; anything else is a bug and shows its traceback.
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from types import FrameType
from typing import TextIO, TypeVar, cast

from jaxdistill import __version__
from jaxdistill.errors import INTERRUPTED, UserError

USAGE_ERROR = 2
BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with _stopped_by_signals():
            return options.command(options) or 0
    except UserError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """While entered, Ctrl-C and what a scheduler sends before it kills end the process at once.

    Not by an exception: one that rises in a callback of a library is lost, and the work goes on.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if is_main and signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
    os.write(2, b"\nStopped.\n")
    os._exit(INTERRUPTED)


def _train(options: argparse.Namespace) -> int:
    from jaxdistill import run

    _outlive_readers()
    return run.train(run.read(options.config, options.overrides))


def _check(options: argparse.Namespace) -> None:
    from jaxdistill import run

    _say(run.check(run.read(options.config, options.overrides)))


def _study(options: argparse.Namespace) -> int:
    from jaxdistill import study

    _outlive_readers()
    return study.run(study.read(options.config, tuple(options.overrides)), options.config)


def _compare(options: argparse.Namespace) -> None:
    from jaxdistill import compare

    reading = ("length", "loss_on", "prompt_template")
    named = ("out", "prompts", "max_new_tokens", "batch_size", "task", "machine_price")
    named += ("currency", "tolerance", "judgements")
    compare.compare(
        compare.options(
            options.models,
            sources=options.data,
            reading={name: getattr(options, name) for name in reading},
            prices=options.price,
            **{name: getattr(options, name) for name in named},
        )
    )


def _eval(options: argparse.Namespace) -> None:
    _check_eval(options)
    if options.lm_eval:
        values = _harness(options)
    elif options.task:
        from jaxdistill import run

        task = run.read_task(options.task)
        common = {"batch_size": options.batch_size, "dtype": options.dtype}
        scores = run.evaluate_task(options.model, task, sources=options.data, **common)
        values = {
            f"{name}{suffix}": value
            for name, estimate in scores.items()
            for suffix, value in zip(("", "_low", "_high"), astuple(estimate), strict=True)
        }
    else:
        values = _likelihood(options)
    if options.json:
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        _say(json.dumps(finite))
    else:
        width = max(18, *map(len, values))
        _say("\n".join(f"{name:<{width}} {value:.6g}" for name, value in values.items()))


def _check_eval(options: argparse.Namespace) -> None:
    """See that no option is given that would not be looked at."""
    for_rows = ("teacher", "task", "length", "loss_on")
    for_harness = ("include_path", "limit", "fewshot")
    names, why = (
        (for_rows, "is about the rows of `--data`, and `--lm-eval` brings its own")
        if options.lm_eval
        else (for_harness, "belongs to `--lm-eval TASK`")
    )
    if given := [name for name in names if getattr(options, name) is not None]:
        raise UserError(
            *(f"eval: `--{name.replace('_', '-')}` {why}. Leave it out." for name in given)
        )


def _harness(options: argparse.Namespace) -> dict[str, float]:
    from jaxdistill import harness

    return harness.evaluate(
        options.model,
        options.lm_eval,
        include_path=options.include_path,
        limit=options.limit,
        fewshot=options.fewshot,
        as_chat=options.prompt_template == "chat",
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _likelihood(options: argparse.Namespace) -> dict[str, float]:
    from jaxdistill import run
    from jaxdistill.data import DataConfig

    reading = {"length": 512, "loss_on": "completion", "prompt_template": "plain"}
    if (trained := run.trained_on(options.model)) is not None:
        reading = {name: getattr(trained, name) for name in reading}
    reading |= {name: value for name in reading if (value := getattr(options, name)) is not None}
    data_config = DataConfig(sources=tuple(options.data), heldout=0.0, **reading)
    return run.evaluate(
        options.model,
        data_config=data_config,
        teacher=options.teacher,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _cost(options: argparse.Namespace) -> None:
    from jaxdistill import report, run

    found = run.cost(
        options.model,
        runtime=options.runtime,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    values = asdict(found)
    lines = [f"{quantity.label:<24}{text:>12}" for quantity, (text,) in report.rows({"": values})]
    _say(json.dumps(values) if options.json else "\n".join(lines))


def _generate(options: argparse.Namespace) -> None:
    from jaxdistill import run

    model = run.open_model(options.model, dtype=options.dtype)
    prompts = options.prompt or _lines(sys.stdin)
    answers = model.generate(
        prompts,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        chat=options.chat,
    )
    _say("\n".join(answers))


def _export(options: argparse.Namespace) -> None:
    from jaxdistill import run

    path = run.export(options.model, options.out, format=options.format, dtype=options.dtype)
    _say(str(path))


def _fetch(options: argparse.Namespace) -> None:
    from jaxdistill import hub

    _say(str(hub.fetch(options.name, options.out)))


def _lines(file: Iterable[str] | None) -> list[str]:
    """The lines that stand on standard input."""
    try:
        lines = [] if file is None else [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8: {error.reason}. Save it as UTF-8.") from None
    if not lines:
        raise UserError("generate: there is no prompt. Give `--prompt TEXT`, or lines on stdin.")
    return lines


def _outlive_readers() -> None:
    """What is printed from here on may find nobody who reads it; the work goes on."""
    import rich

    from jaxdistill.track import Output

    rich.get_console().file = cast(TextIO, Output())


def _say(text: str) -> None:
    from jaxdistill.track import silence_output

    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        silence_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        raise UserError(f"standard output cannot be written to: {error.strerror}.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxdistill",
        description="Distil large language models into small ones, with JAX.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="run a config: train, evaluate, export, report")
    train.set_defaults(command=_train)
    check = commands.add_parser("check", help="find what is wrong before any weight is loaded")
    check.set_defaults(command=_check)
    study = commands.add_parser("study", help="train arms and seeds of one run, and compare them")
    study.set_defaults(command=_study)
    for command in (train, check, study):
        command.add_argument("config", help="a YAML file, e.g. configs/quickstart.yaml")
        command.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields to change")

    compare = commands.add_parser(
        "compare", help="a page that says whether one model can take another's place"
    )
    compare.set_defaults(command=_compare)
    _compare_options(compare)

    evaluate = commands.add_parser(
        "eval", help="likelihood of rows, agreement with a teacher, tasks"
    )
    evaluate.set_defaults(command=_eval)
    _model_options(evaluate)
    _eval_options(evaluate)

    cost = commands.add_parser("cost", help="what a model takes: time, memory, disk")
    cost.set_defaults(command=_cost)
    _model_options(cost)
    cost.add_argument(
        "--runtime", choices=("jax", "torch"), default="jax", help="torch is PyTorch transformers"
    )
    cost.add_argument("--prompt-tokens", type=_count, default=32, metavar="N")
    cost.add_argument("--new-tokens", type=_count, default=64, metavar="N")
    cost.add_argument("--batch-size", type=_count, default=1, metavar="N")
    cost.add_argument("--json", action="store_true", help="one JSON object as the last line")

    generate = commands.add_parser("generate", help="continue prompts (from flags or from stdin)")
    generate.set_defaults(command=_generate)
    _model_options(generate)
    generate.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    generate.add_argument("--chat", action=argparse.BooleanOptionalAction, default=None)
    generate.add_argument("--max-new-tokens", type=_count, default=128, metavar="N")
    generate.add_argument("--temperature", type=_at_least_0, default=0.0, help="0 is greedy")
    generate.add_argument("--top-k", type=_count_or_0, default=0, metavar="N", help="0 is all")
    generate.add_argument("--top-p", type=_probability, default=1.0)
    generate.add_argument("--seed", type=_count_or_0, default=0, metavar="N")

    export = commands.add_parser("export", help="write a folder that PyTorch transformers loads")
    export.set_defaults(command=_export)
    _model_options(export, dtype=None)
    export.add_argument("--out", required=True, metavar="DIR")
    export.add_argument("--format", choices=("safetensors", "torch"), default="safetensors")

    fetch = commands.add_parser("fetch", help="get a model that the project knows by name")
    fetch.set_defaults(command=_fetch)
    fetch.add_argument("name", help="e.g. smollm2-135m-instruct")
    fetch.add_argument("--out", default="models", metavar="DIR")
    return parser


def _compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="the model in use, then what might take its place: folders, .gguf files, runs, names",
    )
    compare.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="JSONL, Parquet or folder"
    )
    _row_options(compare)
    compare.add_argument("--out", required=True, metavar="DIR", help="where the page is written")
    compare.add_argument("--prompts", type=_count, default=8, metavar="N", help="side by side")
    compare.add_argument("--max-new-tokens", type=_count, default=64, metavar="N")
    compare.add_argument(
        "--machine-price", type=_at_least_0, metavar="P", help="of an hour of this machine"
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
        type=_at_least_0,
        default=0.05,
        metavar="T",
        help="how much worse is accepted, as a fraction of the first model's bits per byte",
    )
    compare.add_argument(
        "--judgements", metavar="FILE", help="the filled-in judgements.csv of the same comparison"
    )


def _eval_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--teacher", metavar="DIR", help="compare with this model's distribution")
    asked = evaluate.add_mutually_exclusive_group(required=True)
    asked.add_argument("--data", nargs="+", metavar="FILE", help="JSONL, Parquet or folder")
    asked.add_argument(
        "--lm-eval", nargs="+", metavar="TASK", help="tasks of lm-evaluation-harness, by name"
    )
    evaluate.add_argument("--include-path", metavar="DIR", help="more tasks for --lm-eval")
    evaluate.add_argument("--limit", type=_count, metavar="N", help="rows of each such task")
    evaluate.add_argument(
        "--fewshot", type=_count_or_0, metavar="N", help="solved rows before each (as the task)"
    )
    _row_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="one JSON object as the last line")


def _row_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--task", metavar="FILE", help="score answers: a YAML file, e.g. configs/tasks/gsm8k.yaml"
    )
    command.add_argument(
        "--length",
        type=_count,
        metavar="N",
        help="longest sequence (as the run, or 512)",
    )
    command.add_argument("--batch-size", type=_count, default=8, metavar="N")
    command.add_argument(
        "--loss-on", choices=("completion", "all"), help="as the run, or completion"
    )
    command.add_argument(
        "--prompt-template", choices=("plain", "chat"), help="as the run, or plain"
    )


def _model_options(command: argparse.ArgumentParser, *, dtype: str | None = "float32") -> None:
    command.add_argument(
        "--model", required=True, metavar="DIR", help="a folder, .gguf file, run folder or hub name"
    )
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=dtype)


def _count(text: str) -> int:
    return _checked(text, int, lambda value: value > 0, "a whole number above 0")


def _count_or_0(text: str) -> int:
    return _checked(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0")


def _at_least_0(text: str) -> float:
    return _checked(text, float, lambda value: 0 <= value < math.inf, "a number from 0")


def _probability(text: str) -> float:
    return _checked(text, float, lambda value: 0 < value <= 1, "a number above 0, at most 1")


_Number = TypeVar("_Number", int, float)


def _checked(
    text: str, kind: Callable[[str], _Number], is_right: Callable[[_Number], bool], expected: str
) -> _Number:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_right(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
