"""What every measured program prints as its last line: seconds of each repeat, as JSON."""

import json
import sys
import time
from collections.abc import Callable


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
