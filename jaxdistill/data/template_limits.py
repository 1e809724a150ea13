"""Limits on the time, memory and output of a chat template: a program that comes with a model."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

MAX_SECONDS = 10.0
MAX_BYTES = 2**30
"""Memory that one rendering may take beyond what the process has."""

_MAX_CHARACTERS, _MAX_GROWTH = 1_000_000, 20
_MEMORY_PAGES = Path("/proc/self/statm")


class TemplateLimitError(Exception):
    """A template that takes too long, or writes too much."""


@contextmanager
def limit_rendering(*, limits_memory: bool = False) -> Iterator[None]:
    """Raise TemplateLimitError if what is done inside takes too much time or, if asked, memory.

    Outside of the main thread nothing is limited: a timer reaches the main thread only. A limit of
    memory concerns all threads of the process, so ask for it while no other one works.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with _time_limit(), _memory_limit() if limits_memory else nullcontext():
            yield
    except MemoryError:
        raise TemplateLimitError(f"it takes more than {MAX_BYTES:,} bytes of memory") from None


def check_rendered_size(text: str, messages: Any) -> None:
    """Raise TemplateLimitError if a text is far longer than the messages that it renders."""
    if len(text) > _MAX_CHARACTERS and len(text) > _MAX_GROWTH * len(repr(messages)):
        raise TemplateLimitError(f"it writes {len(text):,} characters of {len(repr(messages)):,}")


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise TemplateLimitError(f"it takes more than {MAX_SECONDS:g} seconds")

    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:  # the timer of a caller
            left = max(remaining - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextmanager
def _memory_limit() -> Iterator[None]:
    """Limit the address space while entered, where the system can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY or not _MEMORY_PAGES.exists():
        yield
        return
    size = int(_MEMORY_PAGES.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
