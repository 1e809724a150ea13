"""How the next token is chosen, and when to stop."""

from typing import Annotated

from pydantic import Field

from jaxdistill.config import configclass


@configclass
class Sampling:
    """How an answer is written.

    Temperature comes first, then `top_k`, then `top_p` of what `top_k` has left.

    Attributes:
        max_new_tokens: Where an answer is broken off, unless the model ends it sooner.
        temperature: 0 always takes the likeliest token, 1 samples from the model as it is.
        top_k: Sample from so many of the likeliest tokens; 0 is all.
        top_p: Sample from the fewest of the likeliest tokens that have this much probability.
    """

    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
