"""All kernels of attention compute one function, in value and gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.models.attention_kernels import (
    AttentionRule,
    attention_probs,
    blocked_attention,
    dense_attention,
    mean_attention_probs,
    visible_keys,
)
from jaxdistill.models.splash_attention import splash_attention
from jaxdistill.sharding import MeshConfig, make_mesh

LENGTH = 150
"""Neither a multiple of the blocks nor of a register of a TPU."""

RULES = [AttentionRule(), AttentionRule(window=40, soft_cap=2.0)]


def inputs(num_heads=4, num_kv_heads=2, channels=16):
    """Packed sequences, the last with padding, and their queries, keys and values."""
    random = np.random.default_rng(0)
    segment_ids = np.ones((4, LENGTH), np.int32)
    segment_ids[:, 61:] = 2
    segment_ids[-1, 111:] = 0
    shapes = [(4, LENGTH, heads, channels) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    return jnp.asarray(segment_ids), *(
        jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes
    )


def direct_attention(rule, segment_ids, query, key, value):
    """Compute attention of each query alone, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    segment_ids, output = np.asarray(segment_ids), np.zeros_like(query)
    group_size = query.shape[2] // key.shape[2]
    for batch, time, head in np.ndindex(query.shape[:3]):
        first = 0 if rule.window is None else max(0, time + 1 - rule.window)
        seen = [
            t for t in range(first, time + 1) if segment_ids[batch, t] == segment_ids[batch, time]
        ]
        scores = key[batch, seen, head // group_size] @ query[batch, time, head]
        if rule.soft_cap is not None:
            scores = rule.soft_cap * np.tanh(scores / rule.soft_cap)
        weights = np.exp(scores - scores.max())
        output[batch, time, head] = weights @ value[batch, seen, head // group_size] / weights.sum()
    return output


def value_and_gradients(kernel, segment_ids, *arrays):
    weight = np.random.default_rng(1).normal(size=arrays[0].shape)
    weight = weight * (segment_ids != 0)[:, :, None, None]  # padding means nothing

    def loss(*arrays):
        output = kernel(segment_ids, *arrays)
        return jnp.sum(output * weight), output * (weight != 0)

    gradients, output = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return output, *gradients


def splash(rule, mesh, segment_ids, *arrays):
    return splash_attention(
        segment_ids,
        *arrays,
        window=rule.window,
        soft_cap=rule.soft_cap,
        mesh=mesh,
        output_name="output",
        interpret=True,
    )


@pytest.mark.parametrize("rule", RULES)
def test_kernels_equal_attention_of_each_query_alone(rule):
    segment_ids, *arrays = inputs()
    expected = value_and_gradients(partial(dense_attention, rule), segment_ids, *arrays)
    direct = direct_attention(rule, segment_ids, *arrays) * (expected[0] != 0)
    np.testing.assert_allclose(expected[0], direct, atol=2e-5)
    kernels = {"blocked": partial(blocked_attention, rule)}
    for name, sizes in {"splash": (1, 1), "split": (2, 2)}.items():
        data, tensor = sizes
        mesh = make_mesh(MeshConfig(data=data, tensor=tensor), jax.devices()[: data * tensor])
        kernels[name] = partial(splash, rule, mesh)
    for name, kernel in kernels.items():
        results = value_and_gradients(kernel, segment_ids, *arrays)
        for ours, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, other, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("num_heads", [8, 6])
def test_heads_that_shards_do_not_divide(num_heads):
    """Keys are repeated for shards of the queries; else every shard computes all heads."""
    rule, mesh = AttentionRule(), make_mesh(MeshConfig(data=1, tensor=4))
    segment_ids, *arrays = inputs(num_heads=num_heads, num_kv_heads=2)
    expected = dense_attention(rule, segment_ids, *arrays)
    is_text = (segment_ids != 0)[:, :, None, None]
    output = jax.jit(partial(splash, rule, mesh))(segment_ids, *arrays)
    np.testing.assert_allclose(output * is_text, expected * is_text, atol=3e-5)


@pytest.mark.parametrize("rule", RULES)
def test_mean_over_heads_is_that_of_each_head(rule):
    segment_ids, query, key, _ = inputs()
    is_visible = visible_keys(rule, segment_ids, segment_ids)
    expected = attention_probs(rule, query, key, is_visible).mean(axis=(1, 2))
    probs = mean_attention_probs(rule, segment_ids, query, key)
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_no_array_of_blocked_attention_is_as_large_as_the_scores():
    segment_ids, *arrays = inputs()
    segment_ids, *arrays = (
        jnp.tile(x, (1, 14) + (1,) * (x.ndim - 2)) for x in (segment_ids, *arrays)
    )
    length, temporaries = segment_ids.shape[1], []
    for kernel in (dense_attention, blocked_attention):

        def loss(*arrays, kernel=kernel):
            return kernel(AttentionRule(), segment_ids, *arrays).sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    scores = 4 * 4 * length**2 * 4
    assert temporaries[0] > scores
    assert temporaries[1] < scores
