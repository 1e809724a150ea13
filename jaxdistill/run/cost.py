"""Inference cost of a model: size, peak memory and speed in one runtime (`jaxdistill cost`)."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxdistill import evals, hub
from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.run.folder import exported_model_path
from jaxdistill.runtimes.cost import RUNTIMES, CostRequest

PROMPT_TOKENS = 32
NEW_TOKENS = 64
"""Default number of tokens in each prompt and in each completion."""


def measure_cost(
    path: str,
    *,
    runtime: str = "jax",
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = NEW_TOKENS,
    batch_size: int = 1,
    dtype: str = "float32",
) -> evals.Cost:
    """Measure the inference cost of a model in a process of its own.

    Args:
        path: A Hugging Face folder, a `.gguf` file, a Hub name, or a run folder, which stands for
            its exported student.
        runtime: "jax", or "torch" for PyTorch `transformers`, which reads Hugging Face folders.
        prompt_tokens: Number of tokens in each prompt.
        new_tokens: Number of tokens generated for each prompt, greedily; EOS does not stop them.
        batch_size: Number of prompts completed together.
        dtype: Data type of the parameters in memory.

    Raises:
        UserError: If there is no such model, or if the runtime or the model cannot do this.
    """
    _check_arguments(
        runtime, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch_size=batch_size
    )
    model = _model_path(path, runtime)
    request = CostRequest(str(model), runtime, prompt_tokens, new_tokens, batch_size, dtype)
    return evals.Cost(**_measure_in_subprocess(request), size_on_disk=evals.size_on_disk(model))


def _check_arguments(runtime: str, **counts: int) -> None:
    if runtime not in RUNTIMES:
        raise UserError(
            f"runtime: {runtime!r} is not a runtime; expected {' or '.join(RUNTIMES)}."
            f"{did_you_mean(runtime, RUNTIMES)}"
        )
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name}: {count} is too few to measure anything. Take 1 or more.")


def _model_path(path: str, runtime: str) -> Path:
    """Return the folder or file to measure; download it if necessary."""
    model = exported_model_path(path)
    if model is None:
        raise UserError(
            f"{path}: this run has exported no student yet. Let `jaxdistill train` finish it, "
            f"or measure what `jaxdistill export --model {path} --out DIR` writes."
        )
    # `transformers` knows more families and formats than we do, so it judges its folders itself.
    folder = Path(model).expanduser()
    if runtime == "torch" and (folder / "config.json").is_file():
        return folder
    source_path = hub.read_source(model).path
    if runtime == "torch" and source_path.is_file():
        raise UserError(
            f"{source_path}: `transformers` needs more libraries for a .gguf file. Measure what "
            f"`jaxdistill export --model {path} --out DIR` writes, or take `--runtime jax`."
        )
    return source_path


def _measure_in_subprocess(request: CostRequest) -> dict[str, Any]:
    """Return the fields of `Cost`, all but `size_on_disk`, measured in a fresh process."""
    command = [sys.executable, "-m", "jaxdistill.runtimes", json.dumps(asdict(request))]
    # In a session of its own, since the terminal's Ctrl-C would end it with a traceback. It ends
    # when its standard input closes: with this block, or with this process.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        exit_code = process.wait()
    if exit_code == -signal.SIGKILL:
        raise UserError(
            f"{request.path}: the measuring process was killed, most likely because memory ran "
            "out. Use a smaller batch or a narrower dtype."
        )
    if exit_code:
        raise UserError(
            f"{request.path}: the measuring process ended with exit code {exit_code}; its messages "
            "are above. If they name nothing that you can fix, it is a bug of jaxdistill."
        )
    result = json.loads(printed.splitlines()[-1])
    if "errors" in result:
        raise UserError(*result["errors"])
    return result
