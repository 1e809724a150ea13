"""Measurement of a model in a subprocess, with the errors that can come of it."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from jaxdistill.errors import UserError
from jaxdistill.runtimes.request import CostRequest


def measure_in_subprocess(request: CostRequest) -> dict[str, Any]:
    """Measure a request in a fresh process, which ends with this one at the latest.

    Returns:
        Fields of `Cost` by name, all but `size_on_disk`.

    Raises:
        UserError: The process raised it, or it died.
    """
    command = [sys.executable, "-m", "jaxdistill.runtimes", json.dumps(asdict(request))]
    # In a session of its own, since the terminal's Ctrl-C would end it with a traceback. It ends
    # when its standard input closes: with this block, or with this process.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        exit_code = process.wait()
    if exit_code:
        raise UserError(f"{request.path}: {_describe_exit(exit_code)}")
    result = json.loads(printed.splitlines()[-1])
    if "errors" in result:
        raise UserError(*result["errors"])
    return result


def _describe_exit(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "the measuring process was killed, most likely because memory ran out. Use a "
            "smaller batch or a narrower dtype."
        )
    return (
        f"the measuring process ended with exit code {exit_code}; its messages are above. "
        "If they name nothing that you can fix, it is a bug of jaxdistill."
    )
