"""What is looked up once for a pair of vocabularies, kept in a file."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.files import atomic_file

Arrays = Mapping[str, np.ndarray]


def load_or_compute(
    path: Path, compute: Callable[[], Arrays], lengths: Mapping[str, int | None]
) -> Arrays:
    """The arrays in a file; they are made where there is none, or none that can be read.

    Args:
        path: The file.
        make: Makes them.
        lengths: Which there are, and how long each has to be; None for any length.
    """
    found = _read_npz(path)
    if found.keys() == lengths.keys() and all(
        size in (None, len(found[name])) for name, size in lengths.items()
    ):
        return found
    made = compute()
    # Where they cannot be kept they are made again the next time.
    with suppress(UserError), atomic_file(path) as target, target.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **made)
    return made


def _read_npz(path: Path) -> Arrays:
    """What a file holds; nothing where it cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # noqa: BLE001 (zip, zlib and NumPy raise a dozen kinds for damaged files)
        return {}
