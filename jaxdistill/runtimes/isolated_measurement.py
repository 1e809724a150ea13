"""A runtime in a process of its own: what it measures, and whatever may go wrong with it."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from jaxdistill.errors import UserError
from jaxdistill.runtimes.request import CostRequest


def measure_in_subprocess(request: CostRequest) -> dict[str, Any]:
    """What a fresh process finds, by the names of `Cost`; all of them but the size on disk.

    It holds nothing of what the caller holds, and it does not outlive the caller.

    Raises:
        UserError: what that process raised, or that it died.
    """
    command = [sys.executable, "-m", "jaxdistill.runtimes", json.dumps(asdict(request))]
    # A session of its own, for the terminal's Ctrl-C would end it in a traceback. It ends when
    # its standard input does: with this block, or with this process.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        code = process.wait()
    if code:
        raise UserError(f"{request.path}: {_describe_exit(code)}")
    answer = json.loads(printed.splitlines()[-1])
    if "errors" in answer:
        raise UserError(*answer["errors"])
    return answer


def _describe_exit(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "the process that measured it was killed, most likely for want of memory. Take a "
            "smaller batch or a narrower dtype."
        )
    return (
        f"the process that measured it ended with exit code {exit_code}; what it said stands above. "
        "If that names nothing to mend, it is a bug of ours."
    )
