"""jaxdistill: distil large language models into small ones, with JAX.

Example:
    >>> import jaxdistill
    >>> model = jaxdistill.load("models/smollm2-135m-instruct")  # doctest: +SKIP
    >>> model.generate("Why is the sky blue?")  # doctest: +SKIP
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.model import Model as Model
    from jaxdistill.model import load as load

__version__ = "0.1.0"

# Without PyTorch, `transformers` prints on import that it is missing; tokenizers do not need it.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def __getattr__(name: str) -> Any:
    # Imported on first use: importing JAX takes seconds, and `jaxdistill --help` should not.
    if name in ("load", "Model"):
        from jaxdistill import model

        return getattr(model, name)
    raise AttributeError(f"module `jaxdistill` has no attribute `{name}`")
