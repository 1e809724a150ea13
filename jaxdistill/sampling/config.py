"""Configuration of sampling: the choice of the next token, and the maximum length."""

from typing import Annotated

from pydantic import Field

from jaxdistill.config import configclass


@configclass
class Sampling:
    """Sampling of a completion: `temperature` is applied first, then `top_k`, then `top_p`.

    Attributes:
        max_new_tokens: Maximum number of generated tokens; an end-of-text token stops earlier.
        temperature: Logits are divided by it. 0 is greedy decoding, 1 samples from the model's
            own distribution.
        top_k: Sample only from this many most probable tokens; 0 for all tokens.
        top_p: Sample only from the nucleus: the fewest most probable tokens whose probabilities
            sum to at least this; 1 for all tokens.
    """

    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
