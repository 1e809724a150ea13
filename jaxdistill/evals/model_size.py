"""Size of a model, in parameters and on disk."""

from pathlib import Path

import jax

from jaxdistill.types import Params


def num_parameters(params: Params) -> int:
    """Return the number of parameters; tied parameters count once."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def size_on_disk(path: str | Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
