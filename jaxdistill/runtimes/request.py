"""What is to be measured, and what a runtime has made ready for it."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxdistill.errors import UserError
from jaxdistill.runtimes.cost import GenerateTokens

RUNTIMES = ("jax", "torch")


@dataclass(frozen=True)
class CostRequest:
    """What is to be measured.

    Attributes:
        path: The model's folder or file.
        runtime: What loads it and writes with it, one of `RUNTIMES`.
        prompt_tokens: How long each prompt is.
        new_tokens: How many tokens each is continued by.
        batch_size: How many prompts there are.
        dtype: Of the parameters in memory.
    """

    path: str
    runtime: str
    prompt_tokens: int
    new_tokens: int
    batch_size: int
    dtype: str

    def check_length(self, max_positions: int | None) -> None:
        """See that the model reads as much; None where it does not say.

        Raises:
            UserError: when it does not.
        """
        length = self.prompt_tokens + self.new_tokens
        if max_positions is not None and length > max_positions:
            raise UserError(
                f"{self.path}: {self.prompt_tokens:,} tokens of a prompt and {self.new_tokens:,} "
                f"new ones are more than the {max_positions:,} that the model reads. Take fewer."
            )

    def dummy_prompts(self, vocab_size: int) -> list[list[int]]:
        """Prompts that mean nothing: reading costs the same, whatever is read."""
        return [
            [(row + place) % vocab_size for place in range(self.prompt_tokens)]
            for row in range(self.batch_size)
        ]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        write: Continues the prompts greedily, and past any end of text, so that the work is the
            same for every model.
        num_parameters: How many numbers it holds; what is tied counts once.
    """

    generate: GenerateTokens
    num_parameters: int


LoadModel = Callable[[CostRequest], LoadedModel]
"""What a runtime is: it loads the model of a request, or raises a `UserError`."""
