"""How large a model is, in memory and on disk."""

from pathlib import Path

import jax

from jaxdistill.types import Params


def num_parameters(params: Params) -> int:
    """How many numbers a model holds; what is tied counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def size_on_disk(path: str | Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
