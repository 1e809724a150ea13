"""Decoding token by token equals one forward pass, for every family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import make_case, run

from jaxdistill.models import decode_step, forward, init_cache, unstack_cache, unstack_layers

TOLERANCE = 2e-5


@pytest.mark.parametrize(
    "name",
    [
        "llama-biases-wide-heads",
        "mistral",
        "qwen2-sliding",
        "gpt2-inverse-layers",
        "gpt_neo",
        "gemma3",
    ],
)
def test_decode_steps_equal_one_forward_pass(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    lengths, longest, num_steps = np.array([4, 9]), 9, 8
    expected = run(case.config, case.params, tokens)
    positions = np.broadcast_to(np.arange(longest), (2, longest))
    output = forward(
        case.config,
        case.params,
        tokens[:, :longest],
        positions=positions,
        segment_ids=(positions < lengths[:, None]).astype(int),
        cache=init_cache(case.config, 2, longest),
    )
    params = jax.tree.map(jnp.asarray, case.params)
    layers = unstack_layers(case.config, params)
    cache = unstack_cache(output.cache, longest + num_steps)
    jitted_step = jax.jit(partial(decode_step, case.config))
    for step in range(num_steps):
        positions = lengths + step
        new_tokens = tokens[np.arange(2), positions]
        hidden, cache = jitted_step(params, layers, new_tokens, positions=positions, cache=cache)
        for row, position in enumerate(positions):
            np.testing.assert_allclose(hidden[row], expected[row, position], atol=TOLERANCE, rtol=0)
