"""What is looked up once for a pair of vocabularies, kept in a file."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.files import whole_file

Arrays = Mapping[str, np.ndarray]


def saved(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file; they are made where there is none, or none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile):
        made = make()
    # Where they cannot be kept they are made again the next time.
    with suppress(UserError), whole_file(path) as target, target.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **made)
    return made
