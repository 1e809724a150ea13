"""What each command does. It imports its rooms when it runs, so that `--help` answers at once."""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import TextIO, cast

from jaxdistill.errors import UserError

BROKEN_PIPE_EXIT_CODE = 141


def train(options: argparse.Namespace) -> int:
    """Run a config: train, evaluate, export, report."""
    from jaxdistill import run

    _ignore_closed_stdout()
    return run.train(run.load_config(options.config, options.overrides))


def check(options: argparse.Namespace) -> None:
    """Find what is wrong before any weight is loaded."""
    from jaxdistill import run

    _print(run.check(run.load_config(options.config, options.overrides)))


def study(options: argparse.Namespace) -> int:
    """Train arms and seeds of one run, and compare them."""
    from jaxdistill import study

    _ignore_closed_stdout()
    return study.run(study.read(options.config, tuple(options.overrides)), options.config)


def compare(options: argparse.Namespace) -> None:
    """Tell on a page whether a model can take another's place."""
    from jaxdistill import compare

    reading = ("length", "loss_on", "prompt_template")
    named = ("out", "prompts", "max_new_tokens", "batch_size", "task", "machine_price")
    named += ("currency", "tolerance", "judgements")
    compare.compare(
        compare.make_options(
            options.models,
            sources=options.data,
            data_options={name: getattr(options, name) for name in reading},
            prices=options.price,
            **{name: getattr(options, name) for name in named},
        )
    )


def evaluate(options: argparse.Namespace) -> None:
    """Measure likelihood of rows, agreement with a teacher, tasks."""
    _check_eval_options(options)
    if options.lm_eval:
        values = _evaluate_lm_eval(options)
    elif options.task:
        from jaxdistill import run

        task = run.load_task(options.task)
        common = {"batch_size": options.batch_size, "dtype": options.dtype}
        scores = run.evaluate_task(options.model, task, sources=options.data, **common)
        values = {
            f"{name}{suffix}": value
            for name, estimate in scores.items()
            for suffix, value in zip(("", "_low", "_high"), astuple(estimate), strict=True)
        }
    else:
        values = _evaluate_likelihood(options)
    if options.json:
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        _print(json.dumps(finite))
    else:
        width = max(18, *map(len, values))
        _print("\n".join(f"{name:<{width}} {value:.6g}" for name, value in values.items()))


def _check_eval_options(options: argparse.Namespace) -> None:
    """See that no option is given that would not be looked at."""
    likelihood: tuple[str, ...] = ("teacher", "length", "loss_on")
    harness: tuple[str, ...] = ("include_path", "limit", "fewshot")
    unseen: dict[str, str] = dict.fromkeys(harness, "belongs to `--lm-eval TASK`")
    if options.lm_eval:
        why = "is about the rows of `--data`, and `--lm-eval` brings its own"
        unseen = dict.fromkeys((*likelihood, "task"), why)
    elif options.task:
        why = "is about the likelihood of rows, and the file of `--task` says how to ask"
        unseen |= dict.fromkeys((*likelihood, "prompt_template"), why)
    if given := [name for name in unseen if getattr(options, name) is not None]:
        raise UserError(
            *(f"eval: `--{name.replace('_', '-')}` {unseen[name]}. Leave it out." for name in given)
        )


def _evaluate_lm_eval(options: argparse.Namespace) -> dict[str, float]:
    from jaxdistill import harness

    return harness.evaluate(
        options.model,
        options.lm_eval,
        include_path=options.include_path,
        limit=options.limit,
        num_fewshot=options.fewshot,
        apply_chat_template=options.prompt_template == "chat",
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _evaluate_likelihood(options: argparse.Namespace) -> dict[str, float]:
    from jaxdistill import run
    from jaxdistill.data import DataConfig

    reading = run.data_options({"model": options.model}, vars(options))
    data_config = DataConfig(sources=tuple(options.data), heldout=0.0, **reading)
    return run.evaluate(
        options.model,
        data_config=data_config,
        teacher=options.teacher,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def cost(options: argparse.Namespace) -> None:
    """Measure what a model takes: time, memory, disk."""
    from jaxdistill import report, run

    found = run.measure_cost(
        options.model,
        runtime=options.runtime,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    values = asdict(found)
    lines = [
        f"{quantity.label:<24}{text:>12}" for quantity, (text,) in report.table_rows({"": values})
    ]
    _print(json.dumps(values) if options.json else "\n".join(lines))


def generate(options: argparse.Namespace) -> None:
    """Continue prompts (from flags or from stdin)."""
    from jaxdistill import run

    model = run.open_model(options.model, dtype=options.dtype)
    prompts = options.prompt or _read_prompts(sys.stdin)
    run.check_length(options.max_new_tokens, model.config, options.model, "--max-new-tokens")
    answers = model.generate(
        prompts,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        chat=options.chat,
    )
    _print("\n".join(answers))


def export(options: argparse.Namespace) -> None:
    """Write a folder that PyTorch transformers loads."""
    from jaxdistill import run

    path = run.export(options.model, options.out, format=options.format, dtype=options.dtype)
    _print(str(path))


def fetch(options: argparse.Namespace) -> None:
    """Get a model that the project knows by name."""
    from jaxdistill import hub

    _print(str(hub.fetch(options.name, options.out)))


def explain(options: argparse.Namespace) -> None:
    """Say what may stand in a config: every field, its default and what it means."""
    import rich
    from rich.markdown import Markdown

    from jaxdistill.cli import config_reference

    text, console = config_reference.explain_config(options.names), rich.get_console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        _print(text)


def _read_prompts(file: Iterable[str] | None) -> list[str]:
    """The lines that stand on standard input."""
    try:
        lines = [] if file is None else [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8: {error.reason}. Save it as UTF-8.") from None
    if not lines:
        raise UserError("generate: there is no prompt. Give `--prompt TEXT`, or lines on stdin.")
    return lines


def _ignore_closed_stdout() -> None:
    """What is printed from here on may find nobody who reads it; the work goes on."""
    import rich

    from jaxdistill.track import SafeStdout

    rich.get_console().file = cast(TextIO, SafeStdout())


def _print(text: str) -> None:
    from jaxdistill.track import discard_stdout

    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        discard_stdout()
        if isinstance(error, BrokenPipeError):
            sys.exit(BROKEN_PIPE_EXIT_CODE)
        raise UserError(f"standard output cannot be written to: {error.strerror}.") from None
