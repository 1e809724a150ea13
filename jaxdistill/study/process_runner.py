"""Runs as processes of their own, one at a time, which hear of every signal to their study."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.signal_handler import SignalHandler


@contextmanager
def lock_folder(folder: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """While entered, no other study works in this folder.

    The lock goes with its descriptor: a process that is given it holds it too. So a run that
    outlives its study (SIGKILL cannot be handed on) is waited for, and nothing of it is lost.

    Args:
        folder: The study's folder; made if it is not there.
        on_wait: Called when another process has it, before waiting for that process to end.

    Yields:
        The descriptor of the lock.

    Raises:
        UserError: when this is no place for a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"output: {folder} cannot be a study's folder: {error.strerror}. Choose another."
        ) from None
    try:
        _lock_descriptor(descriptor, on_wait)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_descriptor(descriptor: int, on_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks


class ProcessRunner(SignalHandler):
    """While entered, a signal goes to the process that runs, and none is started after it.

    Args:
        inherited: Descriptors that the processes share.
    """

    def __init__(self, *inherited_fds: int):
        super().__init__(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._inherited = inherited_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self, command: Sequence[str]) -> int:
        """Run one process to its end. Returns its exit code, or 130 if a signal came."""
        if self._is_stopped:
            return INTERRUPTED_EXIT_CODE
        # A session of its own: the terminal's Ctrl-C would reach the run twice.
        with subprocess.Popen(
            command, start_new_session=True, pass_fds=self._inherited
        ) as self._process:
            if self._is_stopped:  # while it was started
                self._process.terminate()
            code = self._process.wait()
        self._process = None
        return INTERRUPTED_EXIT_CODE if self._is_stopped else code

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Hand it on."""
        self._is_stopped = True
        if self._process is not None:
            # Whatever came: this one is understood from a process's first moment on.
            self._process.terminate()
