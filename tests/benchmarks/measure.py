"""What every measured program prints as its last line: seconds of each repeat, as JSON."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def repeat(work: Callable[[], object], *, repeats: int, units: int, warm_up: int = 1) -> None:
    """Time `work`, which must wait for its own end.

    Args:
        work: What is measured.
        repeats: How often.
        units: What one repeat gets done: tokens, or rows.
        warm_up: How many repeats come before, for compilers and caches.
    """
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    tell(seconds, units=units)


def tell(seconds: list[float], *, units: int) -> None:
    """Print what the driver reads."""
    sys.stdout.write(json.dumps({"seconds": seconds, "units": units}) + "\n")


def until(command: list[str], marker: str, *, cache: str, repeats: int = 3) -> None:
    """Time a program from its start to the line that begins with `marker`, and stop it there.

    Args:
        command: The program.
        marker: How that line begins.
        cache: Where in `.benchmarks/cache` its compiled programs are kept: one run before the
            measured ones fills it.
        repeats: How often.
    """
    place = Path(".benchmarks/cache", cache).resolve()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(place)}
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
            assert run.stdout is not None
            if not any(line.startswith(marker) for line in run.stdout):
                sys.exit(f"{' '.join(command)} ended without a line {marker!r}")
            seconds.append(time.perf_counter() - start)
            run.kill()
    tell(seconds[1:], units=1)
