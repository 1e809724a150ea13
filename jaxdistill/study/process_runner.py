"""Subprocesses of a study: one run at a time, stopped by signals to the study."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.files import try_lock
from jaxdistill.signal_handler import handle_signals


@contextmanager
def lock_folder(folder: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Lock a study's folder while entered, so that no other study runs in it.

    A process that inherits the lock's file descriptor holds the lock too. So a run that outlives
    its study (SIGKILL cannot be passed on) is waited for, and keeps its work.

    Args:
        folder: Folder of the study; created if missing.
        on_wait: Called before waiting, when another process holds the lock.

    Yields:
        File descriptor of the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"output: {folder} cannot be a study's folder: {error.strerror}. Choose another."
        ) from None
    try:
        if not try_lock(descriptor):
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class ProcessRunner:
    """Runner of one process at a time, each of which inherits the file descriptors."""

    def __init__(self, *inherited_fds: int):
        self._inherited_fds = inherited_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    @classmethod
    @contextmanager
    def open(cls, *inherited_fds: int) -> Iterator["ProcessRunner"]:
        """While entered, a signal ends the current process and no other one is started."""
        runner = cls(*inherited_fds)
        with handle_signals(runner._stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield runner

    def run(self, command: Sequence[str]) -> int:
        """Run one process to its end. Return its exit code, or 130 after a signal."""
        if self._is_stopped:
            return INTERRUPTED_EXIT_CODE
        # In a session of its own, or a Ctrl-C of the terminal would reach the run twice.
        with subprocess.Popen(
            command, start_new_session=True, pass_fds=self._inherited_fds
        ) as self._process:
            if self._is_stopped:  # while it started
                self._process.terminate()
            code = self._process.wait()
        self._process = None
        return INTERRUPTED_EXIT_CODE if self._is_stopped else code

    def _stop(self, _: signal.Signals) -> None:
        self._is_stopped = True
        if self._process is not None:
            # SIGTERM for every signal: a process handles it from its start.
            self._process.terminate()
