"""The runtime of most others: PyTorch `transformers`, without code from a model's folder."""

from jaxdistill.errors import UserError
from jaxdistill.runtimes.request import Ready, Request


def make_ready(request: Request) -> Ready:
    """Load the model, without its tokenizer.

    Raises:
        UserError: PyTorch is not installed, or `transformers` does not load the model.
    """
    raise UserError("runtime=torch: not there yet.")
