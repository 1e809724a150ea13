"""Taps: hidden states and attention from inside of a model are those of `transformers`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny_models import DISTINCT, TIME, make_case

from jaxdistill.models import DecoderModel
from jaxdistill.taps import NO_TAPS, Taps
from tests import tiny

ATOL = 1e-4
TAPS = Taps(hidden=(0, 1, 3, 4), attention=(2, 4), mean_attention=(2,), projections=(2,))
"""Neighbouring and final layers, with attention and without."""


def run(model: DecoderModel, params, tokens, segment_ids=None, taps=TAPS, **options):
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    segment_ids = np.ones_like(tokens) if segment_ids is None else segment_ids
    options |= {"positions": positions, "segment_ids": segment_ids, "taps": taps}
    return model.forward(params, tokens, **options)


def test_most_layers_are_tapped(tokens: np.ndarray) -> None:
    case = make_case("gemma3")
    output = run(DecoderModel(case.config), case.params, tokens, taps=Taps(hidden=(0, 1, 2, 4)))
    with torch.no_grad():
        expected = case.original(torch.tensor(tokens), output_hidden_states=True).hidden_states
    assert set(output.taps.hidden) == {0, 1, 2, 4}
    for layer, hidden in output.taps.hidden.items():
        np.testing.assert_allclose(hidden, expected[layer], atol=ATOL, rtol=0)


@pytest.mark.parametrize("name", DISTINCT)
def test_taps_equal_transformers(name: str, tokens: np.ndarray) -> None:
    case = make_case(name)
    output = run(DecoderModel(case.config), case.params, tokens)
    with torch.no_grad():
        options = {"output_hidden_states": True, "output_attentions": True}
        expected = case.original(torch.tensor(tokens), **options)
    assert set(output.taps.hidden) == set(TAPS.hidden)
    for layer, hidden in output.taps.hidden.items():
        np.testing.assert_allclose(hidden, expected.hidden_states[layer], atol=ATOL, rtol=0)
    assert set(output.taps.attention) == set(TAPS.attention)
    for layer, attention in output.taps.attention.items():
        np.testing.assert_allclose(attention, expected.attentions[layer - 1], atol=ATOL, rtol=0)
    (mean,) = output.taps.mean_attention.values()
    np.testing.assert_allclose(mean, expected.attentions[1].mean(1), atol=ATOL, rtol=0)
    np.testing.assert_array_equal(output.hidden, output.taps.hidden[4])


def test_projections_are_those_of_the_linear_layers(tokens: np.ndarray) -> None:
    case = make_case("llama-biases-wide-heads")
    layer = case.original.model.layers[1].self_attn
    seen = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        hook = partial(lambda name, module, inputs, output: seen.update({name: output}), name)
        getattr(layer, name).register_forward_hook(hook)
    with torch.no_grad():
        case.original(torch.tensor(tokens))
    projections = run(DecoderModel(case.config), case.params, tokens).taps.projections[2]
    for ours, expected in zip(projections, seen.values(), strict=True):
        np.testing.assert_allclose(ours, expected, atol=ATOL, rtol=0)


def test_a_token_attends_to_its_own_segment_only(tokens: np.ndarray) -> None:
    case = make_case("gemma3")
    segment_ids = np.repeat([[1, 2, 0]], 2, axis=0).repeat(TIME // 3, axis=1)
    output = run(DecoderModel(case.config), case.params, tokens, segment_ids)
    is_other = (segment_ids[:, :, None] != segment_ids[:, None, :]) & (segment_ids > 0)[..., None]
    for attention in output.taps.attention.values():
        assert not np.asarray(attention)[np.broadcast_to(is_other[:, None], attention.shape)].any()
        np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)


def test_an_offset_is_added_to_its_layer_and_reaches_all_that_follows(tokens: np.ndarray) -> None:
    case = make_case("gpt2-inverse-layers")
    model, taps = DecoderModel(case.config), Taps(hidden=(0, 2, 4))
    plain = run(model, case.params, tokens, taps=taps)
    random = np.random.default_rng(0)
    for layer in taps.hidden:
        offset = jnp.asarray(random.normal(size=plain.hidden.shape), jnp.float32)
        shifted = run(model, case.params, tokens, taps=taps, offsets={layer: offset})
        for other, hidden in shifted.taps.hidden.items():
            expected = plain.taps.hidden[other] + (offset if other == layer else 0)
            assert np.allclose(hidden, expected, atol=1e-5) == (other <= layer)


def test_layers_without_a_tap_store_nothing_more() -> None:
    """Of eight layers of 4 heads, one map, or its mean, and a few hidden states are more."""
    batch, time, config = 2, 64, tiny.decoder(layers=tiny.decoder().layers * 4)
    model = DecoderModel(config)
    tokens = np.zeros((batch, time), np.int32)
    hidden_size = 4 * batch * time * config.embed_dim
    map_size = 4 * batch * time * time

    def loss(params, taps):
        output = run(model, params, tokens, taps=taps)
        return output.hidden.sum() + sum(jnp.sum(x**2) for x in jax.tree.leaves(output.taps))

    def temporary_bytes(taps):
        compiled = jax.jit(jax.grad(partial(loss, taps=taps))).lower(model.abstract_params())
        return compiled.compile().memory_analysis().temp_size_in_bytes

    plain = temporary_bytes(NO_TAPS)
    assert temporary_bytes(Taps(hidden=(3,))) - plain < 3 * hidden_size
    assert temporary_bytes(Taps(mean_attention=(3,))) - plain < 3 * hidden_size + 2 * map_size
    everywhere = temporary_bytes(Taps(attention=tuple(range(1, 9))))
    assert everywhere - plain > 8 * config.num_heads * map_size
