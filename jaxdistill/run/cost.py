"""`cost`: what a model costs to run, in any runtime."""

from pathlib import Path

from jaxdistill import evals, hub
from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.run.folder import RunFolder
from jaxdistill.runtimes.isolated_measurement import measure_in_subprocess
from jaxdistill.runtimes.request import RUNTIMES, CostRequest

PROMPT_TOKENS = 32
NEW_TOKENS = 64
"""How long prompts and answers are where nothing else is said."""


def measure_cost(
    path: str,
    *,
    runtime: str = "jax",
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = NEW_TOKENS,
    batch_size: int = 1,
    dtype: str = "float32",
) -> evals.Cost:
    """What a model costs to run, measured in a process that does nothing else.

    Args:
        path: A folder, a `.gguf` file, a hub name, or a run folder, which means its student.
        runtime: "jax", or "torch" for PyTorch `transformers`, which reads Hugging Face folders.
        prompt_tokens: How long each prompt is.
        new_tokens: How many tokens each is continued by, greedily and past any end of text.
        batch_size: How many prompts are continued together.
        dtype: Of the parameters in memory.

    Raises:
        UserError: when the model is not there, or this runtime does not load it, or it does not
            read as much.
    """
    _check_arguments(
        runtime, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch_size=batch_size
    )
    place = _model_path(path, runtime)
    request = CostRequest(str(place), runtime, prompt_tokens, new_tokens, batch_size, dtype)
    return evals.Cost(**measure_in_subprocess(request), size_on_disk=evals.size_on_disk(place))


def _check_arguments(runtime: str, **counts: int) -> None:
    if runtime not in RUNTIMES:
        raise UserError(
            f"runtime: {runtime!r} is none; expected {' or '.join(RUNTIMES)}."
            f"{did_you_mean(runtime, RUNTIMES)}"
        )
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name}: {count} is too few to measure anything. Take 1 or more.")


def _model_path(path: str, runtime: str) -> Path:
    """The folder or file that is measured, downloaded if it has to be."""
    model: str | Path = path
    if RunFolder.is_run(path):
        model = RunFolder(path).student
        if not model.is_dir():
            raise UserError(
                f"{path}: this run has exported no student yet. Let `jaxdistill train` finish it, "
                f"or measure what `jaxdistill export --model {path} --out DIR` writes."
            )
    # Of such a folder `transformers` is the judge: it knows more families and formats than we do.
    folder = Path(model).expanduser()
    if runtime == "torch" and (folder / "config.json").is_file():
        return folder
    place = hub.read_source(model).path
    if runtime == "torch" and place.is_file():
        raise UserError(
            f"{place}: `transformers` would need further libraries for a .gguf file. Measure what "
            f"`jaxdistill export --model {path} --out DIR` writes, or take `--runtime jax`."
        )
    return place
