"""Token by token equals all at once, for every family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import make_case, run

from jaxdistill.models import decode_step, forward, init_cache, unstack_cache, unstack_layers

SAME = 2e-5


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
def test_steps_equal_a_whole_pass(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    prompts, longest, steps = np.array([4, 9]), 9, 8
    whole = run(case.config, case.params, tokens)
    places = np.broadcast_to(np.arange(longest), (2, longest))
    output = forward(
        case.config,
        case.params,
        tokens[:, :longest],
        positions=places,
        segment_ids=(places < prompts[:, None]).astype(int),
        cache=init_cache(case.config, 2, longest),
    )
    params = jax.tree.map(jnp.asarray, case.params)
    layers = unstack_layers(case.config, params)
    cache = unstack_cache(output.cache, longest + steps)
    advance = jax.jit(partial(decode_step, case.config))
    for number in range(steps):
        at = prompts + number
        hidden, cache = advance(params, layers, tokens[np.arange(2), at], positions=at, cache=cache)
        for row, place in enumerate(at):
            np.testing.assert_allclose(hidden[row], whole[row, place], atol=SAME, rtol=0)
