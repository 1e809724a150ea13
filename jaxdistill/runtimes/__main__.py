"""`python -m jaxdistill.runtimes REQUEST` measures one model, and prints what it found as JSON."""

import json
import os
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from jaxdistill.errors import INTERRUPTED, UserError
from jaxdistill.runtimes.cost import peak_bytes, speed
from jaxdistill.runtimes.request import MakeReady, Request


def main() -> None:
    """Answer the request in the first argument."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    request = Request(**json.loads(sys.argv[1]))
    with redirect_stdout(sys.stderr):  # libraries may print, too
        try:
            answer = _measured(request)
        except UserError as error:
            answer = {"errors": error.lines}
    sys.stdout.write(json.dumps(answer) + "\n")


def _end_with_standard_input() -> None:
    """Whoever asked holds the other end: however they end, this process ends with them."""
    while os.read(0, 1):
        pass
    os._exit(INTERRUPTED)


def _measured(request: Request) -> dict[str, Any]:
    ready = _runtime(request)(request)
    measured = speed(ready.write, new_tokens=request.new_tokens)
    return {
        **asdict(measured),
        "peak_bytes": peak_bytes(),
        "num_parameters": ready.num_parameters,
    }


def _runtime(request: Request) -> MakeReady:
    if request.runtime == "torch":
        from jaxdistill.runtimes.with_torch import make_ready

        return make_ready
    # `transformers`, which knows our tokenizers, loads PyTorch wherever it finds it.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    from jaxdistill.runtimes.with_jax import make_ready

    return make_ready


main()
