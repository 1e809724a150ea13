"""`python -m jaxdistill.runtimes REQUEST` measures one model, and prints what it found as JSON."""

import json
import os
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.runtimes.cost import measure_speed, peak_bytes
from jaxdistill.runtimes.request import CostRequest, LoadModel


def main() -> None:
    """Answer the request in the first argument."""
    threading.Thread(target=_exit_when_stdin_closes, daemon=True).start()
    request = CostRequest(**json.loads(sys.argv[1]))
    with redirect_stdout(sys.stderr):  # libraries may print, too
        try:
            answer = _measure(request)
        except UserError as error:
            answer = {"errors": error.lines}
    sys.stdout.write(json.dumps(answer) + "\n")


def _exit_when_stdin_closes() -> None:
    """Whoever asked holds the other end: however they end, this process ends with them."""
    while os.read(0, 1):
        pass
    os._exit(INTERRUPTED_EXIT_CODE)


def _measure(request: CostRequest) -> dict[str, Any]:
    ready = _select_runtime(request)(request)
    measured = measure_speed(ready.generate, new_tokens=request.new_tokens)
    return {
        **asdict(measured),
        "peak_bytes": peak_bytes(),
        "num_parameters": ready.num_parameters,
    }


def _select_runtime(request: CostRequest) -> LoadModel:
    if request.runtime == "torch":
        from jaxdistill.runtimes.torch_runtime import load_model

        return load_model
    # `transformers`, which knows our tokenizers, loads PyTorch wherever it finds it.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    from jaxdistill.runtimes.jax_runtime import load_model

    return load_model


main()
