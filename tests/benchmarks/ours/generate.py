"""Greedy generation for a batch of prompts. Argument: BATCH_SIZE."""

import sys

import jax
import numpy as np
import shapes
from timing import time_repeats

from jaxdistill.models import FAMILIES, DecoderModel
from jaxdistill.sampling import Sampling, generate

batch_size = int(sys.argv[1])
model = DecoderModel(
    FAMILIES["llama"].decoder_config({**shapes.CONFIG, "num_hidden_layers": shapes.NUM_LAYERS})
)
params = model.init_params(jax.random.key(0))
rng = np.random.default_rng(0)
prompts = rng.integers(0, model.vocab_size, (batch_size, shapes.PROMPT_LENGTH)).tolist()
sampling = Sampling(max_new_tokens=shapes.MAX_NEW_TOKENS)


def generate_completions() -> None:
    """Generate all completions; without an EOS token each has full length."""
    completions = generate(model, params, prompts, sampling, eos_ids=(), batch_size=batch_size)
    assert all(len(completion) == shapes.MAX_NEW_TOKENS for completion in completions)


time_repeats(generate_completions, repeats=3, units=batch_size * shapes.MAX_NEW_TOKENS)
