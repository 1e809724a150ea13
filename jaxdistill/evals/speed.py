"""How fast a model writes."""

import time
from collections.abc import Sequence

from jaxdistill.models import DecoderConfig
from jaxdistill.sampling import Sampling, generate
from jaxdistill.types import Params


def tokens_per_second(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int | None = None,
    max_new_tokens: int = 64,
    repeats: int = 3,
) -> float:
    """New tokens a second, over all `prompts` together in one batch, without compilation.

    Greedy, and past any end of text, so that the work is the same for every model. The best of
    `repeats`: whatever else the machine does can only make it slower.

    Args:
        config: The model's shape.
        params: Its parameters.
        prompts: What is continued; one prompt measures how long a single reader waits.
        vocab_size: How many tokens the tokenizer has.
        max_new_tokens: How many tokens each prompt is continued by.
        repeats: How often to measure, after one run that compiles.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)
    best = 0.0
    for attempt in range(repeats + 1):
        start = time.perf_counter()
        written = generate(
            config,
            params,
            prompts,
            sampling,
            eos_ids=(),
            vocab_size=vocab_size,
            batch_size=len(prompts),
        )
        seconds = time.perf_counter() - start
        if attempt > 0:
            best = max(best, sum(map(len, written)) / seconds)
    return best
