"""Timing of a benchmark program, which prints the seconds of its repeats as a last JSON line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def time_repeats(
    function: Callable[[], object], *, repeats: int, units: int, warm_up: int = 1
) -> None:
    """Time repeated calls of `function` and print the result.

    Args:
        function: Function to time. It must block until its results are computed.
        repeats: Number of timed calls.
        units: Tokens or positions that one call processes.
        warm_up: Number of untimed calls before them, for compilation and caches.
    """
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    print_timings(seconds, units=units)


def print_timings(seconds: list[float], *, units: int) -> None:
    """Print the JSON line that `driver.py` parses."""
    sys.stdout.write(json.dumps({"seconds": seconds, "units": units}) + "\n")


def time_until_line(command: list[str], prefix: str, *, cache: str, repeats: int = 3) -> None:
    """Time a command from its start to its first line with `prefix`, stop it, print the result.

    Args:
        command: Program and arguments.
        prefix: Beginning of the line.
        cache: Folder of its compilation cache in `.benchmarks/cache`. One untimed run fills it.
        repeats: Number of timed runs.
    """
    cache_folder = Path(".benchmarks/cache", cache).resolve()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache_folder)}
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            if not any(line.startswith(prefix) for line in process.stdout):
                sys.exit(f"{' '.join(command)} ended without a line that begins with {prefix!r}")
            seconds.append(time.perf_counter() - start)
            process.kill()
    print_timings(seconds[1:], units=1)
