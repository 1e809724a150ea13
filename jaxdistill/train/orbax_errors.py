"""Errors of Orbax: no tracebacks on the console, and errors of the disk as one line."""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator

from jaxdistill.errors import UserError


@contextlib.contextmanager
def disk_errors_as_user_errors(message: str) -> Iterator[None]:
    """Turn errors of the file system into one line that begins with `message`."""
    try:
        with silence_orbax():
            yield
    except (OSError, ValueError) as error:
        # TensorStore reports the system's error number inside the text of a ValueError.
        match = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        if number is None:
            raise
        cure = "Fix this, and run the same command again: it continues."
        raise UserError(f"{message}: {os.strerror(number)}. {cure}") from None


@contextlib.contextmanager
def silence_orbax() -> Iterator[None]:
    """Keep Orbax's tracebacks off the console; what matters is raised."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    except Exception:
        # When one array fails, Orbax closes its event loop. TensorStore's threads then cannot
        # report the other arrays, and would print that. Wait until they have tried.
        time.sleep(0.2)
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook
