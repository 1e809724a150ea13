"""Balanced weights make the objectives' gradients equally large at the last shared layer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_run import STUDENT, TEACHER, VOCAB_SIZE, assemble, data, fresh_params

from jaxdistill.models import DecoderModel
from jaxdistill.sharding import batch_sharding
from jaxdistill.taps import Taps
from jaxdistill.train.balance import balanced_weights

WEIGHTS = {"forward_kl": 0.5, "cross_entropy": 1.5, "attention": 2.5}
LAYER = 1  # the attention of layer 2 is computed from the output of layer 1
PAIRS = ((1, 2), (2, 3))


def dense_losses(batch: Any, offset: jax.Array) -> list[jax.Array]:
    """Return the mean of each objective, over all logits at once."""
    signals = []
    for seed, config in enumerate((STUDENT, TEACHER)):
        layers = tuple(pair[seed] for pair in PAIRS)
        taps = Taps(hidden=(LAYER,), mean_attention=layers)
        offsets = {} if config is TEACHER else {LAYER: offset}
        params = fresh_params(config, seed)
        signals.append(DecoderModel(config).signal(params, batch, taps=taps, offsets=offsets))
    log_q, log_p = (
        jax.nn.log_softmax(signal.hidden @ signal.lm_head.matrix[:VOCAB_SIZE].T)
        for signal in signals
    )
    kl = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    nll = -jnp.take_along_axis(log_q, batch.labels[..., None], axis=-1)[..., 0]
    maps = [
        [jnp.log(signal.taps.mean_attention[pair[n]] + 1e-30) for pair in PAIRS]
        for n, signal in enumerate(signals)
    ]
    distances = [(jnp.exp(p) * (p - q)).sum(-1) for q, p in zip(maps[0], maps[1], strict=True)]
    attention = sum(distances) / len(PAIRS)
    return [(x * batch.loss_mask).sum() / batch.loss_mask.sum() for x in (kl, nll, attention)]


def test_gradients_at_the_last_shared_layer_are_equally_large() -> None:
    batch = next(data())
    tiny = assemble(
        devices=1, objectives=tuple(WEIGHTS), weights=tuple(WEIGHTS.values()), is_balanced=True
    )
    state = jax.tree.map(jnp.copy, tiny.state)
    _, metrics = tiny.step(state, tiny.frozen, jax.device_put(batch, batch_sharding(tiny.mesh)))
    zeros = jnp.zeros((*batch.tokens.shape, STUDENT.embed_dim))
    gradients = jax.jit(jax.jacrev(partial(dense_losses, batch)))(zeros)
    norms = [float(jnp.sqrt(jnp.sum(gradient**2))) for gradient in gradients]
    assert max(norms) > 3 * min(norms)
    weights = np.array(list(WEIGHTS.values()))
    expected = weights * (weights @ norms) / weights.sum() / norms
    actual = [float(metrics[f"train/{name}_weight"]) for name in WEIGHTS]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_an_objective_without_weight_or_gradient_changes_no_other() -> None:
    values = {"a": (1, 4), "b": (3, 16), "c": (0, np.inf), "d": (2, 0), "e": (5, 1e-11)}
    weights, squared = ({n: jnp.float32(v[i]) for n, v in values.items()} for i in (0, 1))
    balanced = balanced_weights(weights, squared)
    np.testing.assert_allclose([balanced[n] for n in "abcde"], [3.5 / 2, 3 * 3.5 / 4, 0, 2, 5])
    del squared["c"]  # of a weight that is always 0, it is not measured
    assert balanced_weights(weights, squared) == balanced
    zeros = dict.fromkeys(squared, jnp.float32(0))
    assert balanced_weights(weights, zeros) == weights
