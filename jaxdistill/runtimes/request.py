"""Interface of a runtime: the request that it serves and the model that it returns."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxdistill.errors import UserError
from jaxdistill.runtimes.cost import GenerateTokens

RUNTIMES = ("jax", "torch")


@dataclass(frozen=True)
class CostRequest:
    """Model and workload to measure.

    Attributes:
        path: The model's folder or file.
        runtime: One of `RUNTIMES`.
        prompt_tokens: Length of each prompt.
        new_tokens: New tokens per prompt.
        batch_size: Number of prompts.
        dtype: Dtype of the parameters in memory.
    """

    path: str
    runtime: str
    prompt_tokens: int
    new_tokens: int
    batch_size: int
    dtype: str

    def check_length(self, max_positions: int | None) -> None:
        """Check that prompt and completion fit into the model's context (None: unknown).

        Raises:
            UserError: They do not.
        """
        length = self.prompt_tokens + self.new_tokens
        if max_positions is not None and length > max_positions:
            raise UserError(
                f"{self.path}: {self.prompt_tokens:,} prompt tokens and {self.new_tokens:,} new "
                f"ones exceed the model's {max_positions:,} positions. Use fewer."
            )

    def dummy_prompts(self, vocab_size: int) -> list[list[int]]:
        """Return prompts of arbitrary tokens: the cost does not depend on the text."""
        return [
            [(row + position) % vocab_size for position in range(self.prompt_tokens)]
            for row in range(self.batch_size)
        ]


@dataclass(frozen=True)
class LoadedModel:
    """Model in memory, ready to generate.

    Attributes:
        generate: Continues the prompts greedily and ignores EOS, so that the work is the same
            for every model.
        num_parameters: Number of parameters; tied parameters count once.
    """

    generate: GenerateTokens
    num_parameters: int


LoadModel = Callable[[CostRequest], LoadedModel]
"""Loads the model of a request, or raises a `UserError`: all that a runtime has to provide."""
