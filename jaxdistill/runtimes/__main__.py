"""Entry point of the measuring process: `python -m jaxdistill.runtimes REQUEST` prints JSON."""

import json
import os
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.runtimes.cost import CostRequest, measure_speed, peak_bytes


def main() -> None:
    """Measure the request in the first argument and print the result."""
    threading.Thread(target=_exit_when_stdin_closes, daemon=True).start()
    request = CostRequest(**json.loads(sys.argv[1]))
    with redirect_stdout(sys.stderr):  # libraries may print, too
        try:
            result = _measure(request)
        except UserError as error:
            result = {"errors": error.lines}
    sys.stdout.write(json.dumps(result) + "\n")


def _exit_when_stdin_closes() -> None:
    """End this process when the parent ends: the parent holds the other end of the pipe."""
    while os.read(0, 1):
        pass
    os._exit(INTERRUPTED_EXIT_CODE)


def _measure(request: CostRequest) -> dict[str, Any]:
    if request.runtime == "torch":
        from jaxdistill.runtimes.torch_runtime import load_model
    else:
        # `transformers`, needed for tokenizers, imports PyTorch wherever it is installed.
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
        from jaxdistill.runtimes.jax_runtime import load_model
    model = load_model(request)
    speed = asdict(measure_speed(model.generate, new_tokens=request.new_tokens))
    return {**speed, "peak_bytes": peak_bytes(), "num_parameters": model.num_parameters}


main()
