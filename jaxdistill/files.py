"""Atomic writes of files and directories, and checks of paths before anything is written."""

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxdistill.errors import UserError

_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# Libraries written in Rust raise plain exceptions whose message ends in the errno.
_RUST_DISK_FULL = re.compile(rf"os error ({'|'.join(map(str, _DISK_FULL_ERRNOS))})\)")

_MAX_NAME_BYTES = 255
_UNFINISHED_SUFFIX, _REPLACED_SUFFIX = ".unfinished", ".replaced"


def cache_folder() -> Path:
    """Return the folder of this package's cached files, below `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdistill"


def check_path_names(path: Path) -> None:
    """Check that a path can be encoded, and that no name in it is too long or holds a null."""
    for part in path.parts:
        try:
            is_valid = len(os.fsencode(part)) <= _MAX_NAME_BYTES and "\0" not in part
        except UnicodeError:
            is_valid = False
        if not is_valid:
            raise UserError(f"{part[:40]}...: no file can have this name. Choose another.")


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `target` on success.

    Leftovers of a killed process beside `target` are removed, as is a new folder on an error.
    Raises UserError if the disk is full or the folder is not writable.
    """
    temporary = _temporary_path(target)
    with _disk_errors_as_user_errors(target):
        is_new_folder = not target.parent.exists()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target, _UNFINISHED_SUFFIX)
            yield temporary
            _fsync(temporary)
            temporary.replace(target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
            if is_new_folder:
                with suppress(OSError):  # fails unless the folder is empty
                    target.parent.rmdir()


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory beside `target`; it becomes `target` on success.

    An existing `target` is replaced at the end. On an error it stays as it was, and the new
    directory is removed, as are leftovers of a killed process. Raises UserError if the disk is full
    or the folder is not writable.
    """
    # Saving through a link replaces what the link points to, not the link.
    target = target.resolve()
    temporary = _temporary_path(target)
    with _disk_errors_as_user_errors(target):
        _remove_leftovers(target, _UNFINISHED_SUFFIX)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                _fsync(path)
            _replace_directory(temporary, target)
            # Not earlier: while there is no `target`, a leftover may be the last whole model.
            _remove_leftovers(target, _REPLACED_SUFFIX)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(target: Path) -> None:
    """Check that `atomic_directory(target)` can begin, before hours of work are at stake."""
    check_path_names(target)
    with _disk_errors_as_user_errors(target):
        target = target.resolve()
        existing = next(parent for parent in target.parents if parent.exists())
        trial = existing / _temporary_path(target).name
        trial.mkdir()
        trial.rmdir()


def try_lock(descriptor: int) -> bool:
    """Lock an open file. Return False if another process holds it; True if there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED_SUFFIX}")


def _remove_leftovers(target: Path, suffix: str) -> None:
    """Remove temporary paths of `target` that a killed process left behind."""
    if not target.parent.is_dir():
        return
    leftover = re.compile(re.escape(f".{target.name}.") + "[0-9a-f]{8}" + re.escape(suffix))
    for path in target.parent.iterdir():
        if leftover.fullmatch(path.name) and not path.is_symlink():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def _disk_errors_as_user_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if _is_disk_full(error):
            raise UserError(
                f"{target}: the disk is full ({error}). Earlier files are unchanged; "
                "free some space, or save somewhere else."
            ) from None
        if isinstance(error, OSError):
            raise UserError(f"{target}: cannot be written ({error}).") from None
        raise


def _replace_directory(temporary: Path, target: Path) -> None:
    replaced = temporary.with_suffix(_REPLACED_SUFFIX)
    with suppress(FileNotFoundError):
        target.rename(replaced)
    try:
        temporary.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    _fsync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Wait until a path's content is on disk: a later rename may otherwise reach it first."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in _DISK_FULL_ERRNOS or bool(
        _RUST_DISK_FULL.search(str(error))
    )
