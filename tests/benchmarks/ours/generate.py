"""Greedy continuation of a batch of prompts with the whole model: argument BATCH."""

import sys

import jax
import numpy as np
import shapes
from measure import repeat

from jaxdistill.models import FAMILIES, init_params
from jaxdistill.sampling import Sampling, generate

batch = int(sys.argv[1])
config = FAMILIES["llama"].decoder_config({**shapes.CONFIG, "num_hidden_layers": shapes.LAYERS})
params = init_params(config, jax.random.key(0))
random = np.random.default_rng(0)
prompts = random.integers(0, config.vocab_size, (batch, shapes.PROMPT)).tolist()
sampling = Sampling(max_new_tokens=shapes.NEW_TOKENS)


def work() -> None:
    """All answers, none of which ends early."""
    answers = generate(config, params, prompts, sampling, eos_ids=(), batch_size=batch)
    assert all(len(answer) == shapes.NEW_TOKENS for answer in answers)


repeat(work, repeats=3, units=batch * shapes.NEW_TOKENS)
