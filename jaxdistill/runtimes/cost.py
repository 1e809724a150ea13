"""What a model costs to run: the quantities, the clock and the meter. Knows no runtime."""

import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GenerateTokens = Callable[[int], int]
"""Writes so many new tokens for each of some prompts; says how many those were in all."""


@dataclass(frozen=True)
class Speed:
    """How fast a model writes, without compilation.

    Attributes:
        first_token_seconds: From the prompts to the first new token of each.
        tokens_per_second: New tokens of all answers together; the prompts are read in that time.
    """

    first_token_seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Cost:
    """What a model costs to run.

    Attributes:
        first_token_seconds: From a batch of prompts to the first new token of each.
        tokens_per_second: New tokens of the whole batch, the time to read the prompts included.
        peak_bytes: The most of the host's memory that the process held, all in all: libraries,
            files as they were read, parameters, programs as they were compiled. What lies on an
            accelerator is not in it.
        size_on_disk: Bytes of the model's files.
        num_parameters: How many numbers the model holds; what is tied counts once.
    """

    first_token_seconds: float
    tokens_per_second: float
    peak_bytes: int
    size_on_disk: int
    num_parameters: int


def measure_speed(generate: GenerateTokens, *, new_tokens: int = 64, repeats: int = 3) -> Speed:
    """How fast `write` is, by the best of `repeats`: other work can only make it slower.

    Args:
        write: Continues its prompts.
        new_tokens: How many tokens each prompt is continued by.
        repeats: How often to measure, after one time that compiles and warms caches.
    """
    first_seconds, _ = _best_seconds(generate, 1, repeats)
    seconds, written = _best_seconds(generate, new_tokens, repeats)
    return Speed(first_seconds, written / seconds)


def _best_seconds(generate: GenerateTokens, new_tokens: int, repeats: int) -> tuple[float, int]:
    written = generate(new_tokens)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        generate(new_tokens)
        best = min(best, time.perf_counter() - start)
    return best, written


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    # Linux hands `ru_maxrss` on to a new program from the one that started it, but not this.
    status = Path("/proc/self/status")
    told = status.is_file() and re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    if told:
        return 1024 * int(told[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
