"""Functions of the commands. Packages are imported inside them, so that `--help` is fast."""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any, TextIO, cast

from jaxdistill.errors import UserError

BROKEN_PIPE_EXIT_CODE = 141


def train(options: argparse.Namespace) -> int:
    """Run a config: train, evaluate, export, report."""
    from jaxdistill import run

    _ignore_closed_stdout()
    return run.train(run.load_config(options.config, options.overrides))


def check(options: argparse.Namespace) -> None:
    """Check a config, its data and models; load no weights."""
    from jaxdistill import report, run

    if options.json and not options.examples:
        raise UserError("check: `--json` prints examples. Say how many: `--examples 3`.")
    checked = run.check(run.load_config(options.config, options.overrides))
    if not options.json:
        _print(checked.facts)
    if options.examples:
        previews = run.preview_examples(checked, options.examples)
        if options.json:
            _print("\n".join(json.dumps(p.to_dict(), ensure_ascii=False) for p in previews))
        else:
            report.print_previews(previews)


def plan(options: argparse.Namespace) -> None:
    """Compile a run for chips that need not be there: memory, time, exchanges."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxdistill import plan, run

    config = run.load_config(options.config, options.overrides)
    if options.search:
        plan.check_searchable(options.topology)
    plans = plan.make_plans(config, options.topology, list(map(plan.parse_mesh, options.mesh)))
    largest = None
    if options.search:
        largest = plan.largest_micro_batch(config, plans[0])
    if options.json:
        _print(json.dumps(plan.to_json(plans, largest)))
    else:
        _print(plan.describe(plans, largest=largest, price=options.price))


def study(options: argparse.Namespace) -> int:
    """Train arms and seeds of one run, and compare them."""
    from jaxdistill import study

    _ignore_closed_stdout()
    return study.run(study.read(options.config, tuple(options.overrides)), options.config)


def compare(options: argparse.Namespace) -> None:
    """Compare a model in use with candidates, on a page."""
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
            command=shlex.join(["jaxdistill", *options.arguments]),
            **{name: getattr(options, name) for name in named},
        )
    )


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate likelihood, agreement with a teacher, or tasks."""
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
    """Check that no option is given that would have no effect."""
    harness, likelihood = (
        ["include_path", "limit", "fewshot"],
        ["teacher", "length", "loss_on", "by_position"],
    )
    unused = dict.fromkeys(harness, "belongs to `--lm-eval TASK`")
    if options.lm_eval:
        reason = "is about the rows of `--data`, and `--lm-eval` has its own"
        unused = dict.fromkeys([*likelihood, "task"], reason)
    elif options.task:
        reason = "is about the likelihood of rows, and the file of `--task` defines the prompts"
        unused |= dict.fromkeys([*likelihood, "prompt_template"], reason)
    if given := [name for name in unused if getattr(options, name) is not None]:
        raise UserError(
            *(f"eval: `--{name.replace('_', '-')}` {unused[name]}. Leave it out." for name in given)
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

    data_options = run.resolve_data_options({"model": options.model}, vars(options))
    data_config = DataConfig(sources=tuple(options.data), heldout=0.0, **data_options)
    return run.evaluate(
        options.model,
        data_config=data_config,
        teacher=options.teacher,
        batch_size=options.batch_size,
        dtype=options.dtype,
        by_position=options.by_position,
    )


def cost(options: argparse.Namespace) -> None:
    """Measure latency, tokens/s, memory and size on disk."""
    from jaxdistill import report, run

    measured = run.measure_cost(
        options.model,
        runtime=options.runtime,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    values = asdict(measured)
    lines = [f"{row.label:<24}{row.cells[0]:>12}" for row in report.table_rows({"": values})]
    _print(json.dumps(values) if options.json else "\n".join(lines))


def generate(options: argparse.Namespace) -> None:
    """Generate completions of prompts."""
    from jaxdistill import run

    model = run.open_model(options.model, dtype=options.dtype)
    prompts = options.prompt or _read_prompts(sys.stdin or ())  # None where it is closed
    run.check_length(
        options.max_new_tokens, model.language_model, options.model, "--max-new-tokens"
    )
    completions = model.generate(
        prompts,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        chat=run.reads_chats(options.model) if options.chat is None else options.chat,
    )
    _print("\n".join(completions))


def export(options: argparse.Namespace) -> None:
    """Export a model for PyTorch transformers or llama.cpp (GGUF)."""
    from jaxdistill import run

    path = run.export(options.model, options.out, format=options.format, dtype=options.dtype)
    _print(str(path))


def fetch(options: argparse.Namespace) -> None:
    """Download a model that the project knows by name."""
    from jaxdistill import hub

    _print(str(hub.fetch(options.name, options.out)))


def explain(options: argparse.Namespace) -> None:
    """Explain the fields of a config: type, default and meaning."""
    import rich
    from rich.markdown import Markdown

    from jaxdistill.cli import config_reference

    text, console = config_reference.explain_config(options.names), rich.get_console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        _print(text)


def _read_prompts(file: Iterable[str]) -> list[str]:
    """Read one prompt per line of standard input."""
    try:
        lines = [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8: {error.reason}. Save it as UTF-8.") from None
    if not lines:
        raise UserError("generate: there is no prompt. Give `--prompt TEXT`, or lines on stdin.")
    return lines


class _SafeStdout:
    """Standard output that discards all text once it cannot be written, as after `| head`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write and flush `text`, or discard it."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            _discard_stdout()
        return len(text)


def _ignore_closed_stdout() -> None:
    """Let long work go on when nothing reads standard output any more, as after `| head`."""
    import rich

    rich.get_console().file = cast(TextIO, _SafeStdout())


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            sys.exit(BROKEN_PIPE_EXIT_CODE)
        raise UserError(f"standard output cannot be written to: {error.strerror}.") from None


def _discard_stdout() -> None:
    """Redirect standard output to the null device; Python flushes its buffer once more at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
