"""The command line of a comparison, written so that a shell runs it again."""

import shlex

from jaxdistill.compare.options import CompareOptions


def format_command(options: CompareOptions) -> str:
    """All that was asked for, also what had been left to defaults."""
    config = options.data
    flags = {
        "--length": config.length,
        "--loss-on": config.loss_on,
        "--prompt-template": config.prompt_template,
        "--batch-size": options.batch_size,
        "--prompts": options.prompts,
        "--max-new-tokens": options.max_new_tokens,
        "--task": options.task,
        "--machine-price": options.machine_price,
        "--currency": options.currency,
        "--tolerance": options.tolerance,
        "--judgements": options.judgements,
        "--out": options.out,
    }
    words = ["jaxdistill", "compare", *(f"{name}={path}" for name, path in options.models.items())]
    words += ["--data", *config.sources]
    for name, price in options.prices.items():
        words += ["--price", f"{name}={price!r}"]
    for flag, value in flags.items():
        if value is not None:
            words += [flag, str(value)]
    return shlex.join(words)
