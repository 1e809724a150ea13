"""Decoding token by token equals one forward pass, for every family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CACHED_TOKENS, make_case, run

from jaxdistill.models.decode_step import decode_step, unstack_cache, unstack_layers
from jaxdistill.models.decoder_model import DecoderModel

TOLERANCE = 2e-5


@pytest.mark.parametrize(
    "name",
    ["llama-biases-wide-heads", "qwen2-sliding", "gpt2-inverse-layers", "gpt_neo", "gemma3"],
)
def test_decode_steps_equal_one_forward_pass(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    lengths, num_steps = np.array([4, CACHED_TOKENS]), 12
    expected = np.asarray(run(case.config, case.params, tokens))
    params = jax.tree.map(jnp.asarray, case.params)
    model = DecoderModel(case.config)
    hidden, cache = model.prefill(
        params, jnp.asarray(tokens[:, :CACHED_TOKENS]), jnp.asarray(lengths)
    )
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(hidden[row, :length], expected[row, :length], atol=TOLERANCE)
    layers = unstack_layers(case.config, params)
    cache = unstack_cache(cache, CACHED_TOKENS + num_steps)
    jitted_step = jax.jit(partial(decode_step, case.config))
    for step in range(num_steps):
        positions = lengths + step
        new_tokens = tokens[np.arange(2), positions]
        hidden, cache = jitted_step(params, layers, new_tokens, positions=positions, cache=cache)
        np.testing.assert_allclose(
            hidden, expected[np.arange(2), positions], atol=TOLERANCE, rtol=0
        )
