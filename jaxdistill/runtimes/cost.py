"""Cost of running a model: request, time, memory, size. Independent of any runtime."""

import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxdistill.errors import UserError

RUNTIMES = ("jax", "torch")
GenerateTokens = Callable[[int], int]
"""Generates this many new tokens for each of some prompts; returns how many in all."""


@dataclass(frozen=True)
class CostRequest:
    """Model to measure, runtime (one of `RUNTIMES`) and size of its work."""

    path: str
    runtime: str
    prompt_tokens: int
    new_tokens: int
    batch_size: int
    dtype: str

    def check_length(self, max_positions: int | None) -> None:
        """Raise UserError if prompt and completion exceed the model's context (None: unknown)."""
        length = self.prompt_tokens + self.new_tokens
        if max_positions is not None and length > max_positions:
            raise UserError(
                f"{self.path}: {self.prompt_tokens:,} prompt tokens and {self.new_tokens:,} new "
                f"ones exceed the model's {max_positions:,} positions. Use fewer."
            )

    def dummy_prompts(self, vocab_size: int) -> list[list[int]]:
        """Return prompts of arbitrary tokens: the cost does not depend on the text."""
        return [
            [(row + position) % vocab_size for position in range(self.prompt_tokens)]
            for row in range(self.batch_size)
        ]


@dataclass(frozen=True)
class LoadedModel:
    """Model in memory; it generates greedily and ignores EOS, so that all do the same work."""

    generate: GenerateTokens
    num_parameters: int


@dataclass(frozen=True)
class Speed:
    """Generation speed, without compilation.

    Attributes:
        first_token_seconds: Time from a batch of prompts to the first new token of each.
        tokens_per_second: New tokens of the whole batch per second, prefill included.
    """

    first_token_seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Cost(Speed):
    """Cost of running a model.

    Attributes:
        peak_bytes: Peak host memory of the process: libraries, files while they are read,
            parameters, programs while they are compiled. Memory of an accelerator is not in it.
        size_on_disk: Bytes of the model's files.
        num_parameters: Number of parameters; tied parameters count once.
    """

    peak_bytes: int
    size_on_disk: int
    num_parameters: int


def measure_speed(generate: GenerateTokens, *, new_tokens: int = 64, repeats: int = 3) -> Speed:
    """Return the best speed of several repeats: other work can only make a repeat slower.

    One call before them compiles and warms caches.
    """
    generate(1)
    first_token_seconds = _best_seconds(generate, 1, repeats)
    num_generated = generate(new_tokens)
    return Speed(first_token_seconds, num_generated / _best_seconds(generate, new_tokens, repeats))


def _best_seconds(generate: GenerateTokens, new_tokens: int, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        generate(new_tokens)
        best = min(best, time.perf_counter() - start)
    return best


def size_on_disk(path: str | Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    path = Path(path)
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def peak_bytes() -> int:
    """Return the peak memory of this process so far."""
    # Linux hands `ru_maxrss` on from parent to child process, but not VmHWM.
    status = Path("/proc/self/status")
    if status.is_file():
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if match:
            return 1024 * int(match[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
