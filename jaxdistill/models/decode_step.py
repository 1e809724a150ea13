"""One token at a time: the same layers, laid out so that a step reads every weight once.

A step multiplies a few rows with every weight there is, so it takes as long as reading them. A
scan over stacked layers would copy each layer's weights, and its part of the cache, before using
them. So `unstack_layers` and `extend` separate the layers, before the first step; both are called
outside of what is compiled, so that the compiler cannot move their work into the steps.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.attention import (
    AttentionContext,
    AttentionFunction,
    KVCache,
    attention_context,
)
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import Decoder, Layer, abstract_decoder
from jaxdistill.models.layers import IS_TRANSPOSED
from jaxdistill.types import Params

UnstackedLayers = tuple[Params, ...]
"""The parameters of each layer, as `unstack_layers` gives them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnstackedCache:
    """A `Cache` whose layers are separate; keys have their slots last, values before channels."""

    keys: tuple[Float[Array, "B K C S"], ...]
    values: tuple[Float[Array, "B K S C"], ...]
    positions: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]


def unstack_layers(config: DecoderConfig, params: Params) -> UnstackedLayers:
    """A copy of each layer's parameters, kernels turned so that what is summed over is last."""
    return tuple(
        _unstack_layer(config, params["layers"], number) for number in range(config.num_layers)
    )


def unstack_cache(cache: KVCache, num_slots: int) -> UnstackedCache:
    """What `forward` has put into a cache, with `length` slots in all."""
    parts = [
        _unstack_layer_cache(cache, number, num_slots) for number in range(cache.keys.shape[0])
    ]
    return UnstackedCache(
        keys=tuple(keys for keys, _ in parts),
        values=tuple(values for _, values in parts),
        positions=_pad_axis(cache.positions, 1, num_slots),
        segment_ids=_pad_axis(cache.segment_ids, 1, num_slots),
        length=cache.length,
    )


def decode_step(
    config: DecoderConfig,
    params: Params,
    layers: UnstackedLayers,
    tokens: Int[Array, " B"],
    *,
    positions: Int[Array, " B"],
    cache: UnstackedCache,
) -> tuple[Float[Array, "B D"], UnstackedCache]:
    """Hidden states of one more token of every row, which belongs to segment 1.

    Args:
        config: What the decoder is made of.
        params: Its parameters, of which the layers are not used.
        layers: The layers.
        tokens: The tokens.
        positions: Where each stands in its row.
        cache: All that came before, with a free slot.

    Returns:
        The hidden states after the final norm, and the cache with the tokens in it.
    """
    decoder: Decoder = nnx.merge(abstract_decoder(config)[0], params)
    places, slot = positions[:, None], cache.length
    segments = jnp.ones_like(places)
    key_positions = _update_slice(cache.positions, places, slot, axis=1)
    key_segments = _update_slice(cache.segment_ids, segments, slot, axis=1)
    contexts = {
        kind: attention_context(
            kind,
            config.head_dim,
            positions=places,
            segment_ids=segments,
            key_positions=key_positions,
            key_segment_ids=key_segments,
        )
        for kind in config.distinct_layer_kinds
    }
    x = decoder.embed(tokens[:, None], places)
    stores = []
    for number, kind in enumerate(config.layers):
        layer: Layer = nnx.merge(_transposed_layer(config)[0], layers[number])
        scale = 1 / (number + 1) if config.is_scaled_by_inverse_layer else 1.0
        mix = _step_attention(contexts[kind], cache.keys[number], cache.values[number], slot)
        x, store = layer(x, contexts[kind], jnp.float32(scale), mix)
        stores.append(store)
    return decoder.final_norm(x)[:, 0], UnstackedCache(
        keys=tuple(keys for keys, _ in stores),
        values=tuple(values for _, values in stores),
        positions=key_positions,
        segment_ids=key_segments,
        length=slot + 1,
    )


def _step_attention(
    context: AttentionContext,
    keys: Float[Array, "B K C S"],
    values: Float[Array, "B K S C"],
    slot: Int[Array, ""],
) -> AttentionFunction:
    """Attention of one token a row, written as sums: a matrix product of one row is slower."""

    def mix(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
        batch, _, heads, channels = query.shape
        new_keys = _update_slice(keys, key.transpose(0, 2, 3, 1), slot, axis=3)
        new_values = _update_slice(values, value.transpose(0, 2, 1, 3), slot, axis=2)
        grouped = query.reshape(batch, keys.shape[1], -1, channels, 1).astype(jnp.float32)
        scores = (grouped * new_keys[:, :, None]).sum(axis=3) + context.bias[:, None]
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = (weights[..., None] * new_values[:, :, None]).sum(axis=3).astype(query.dtype)
        return mixed.reshape(batch, 1, heads, channels), (new_keys, new_values)

    return mix


@functools.partial(jax.jit, static_argnums=0)
def _unstack_layer(config: DecoderConfig, stacked: Params, index: Array | int) -> Params:
    """One layer's parameters; compiled once for all layers."""

    def turned(leaf: Array, axes: "_AxisNames") -> Array:
        return jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False).transpose(
            axes.embed_last_order
        )

    return jax.tree.map(turned, stacked, _transposed_layer(config)[1])


@functools.partial(jax.jit, static_argnums=2)
def _unstack_layer_cache(
    cache: KVCache, index: Array | int, num_slots: int
) -> tuple[Float[Array, "B K C S"], Float[Array, "B K S C"]]:
    """One layer's part of a cache, with `length` slots; compiled once for all layers."""
    keys, values = (
        jax.lax.dynamic_index_in_dim(array, index, keepdims=False)
        for array in (cache.keys, cache.values)
    )
    return _pad_axis(keys.swapaxes(2, 3), 3, num_slots), _pad_axis(values, 2, num_slots)


def _pad_axis(array: Array, axis: int, new_size: int) -> Array:
    widths = [
        (0, new_size - size if place == axis else 0) for place, size in enumerate(array.shape)
    ]
    return jnp.pad(array, widths)


def _update_slice(array: Array, new: Array, slot: Array, *, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, new.astype(array.dtype), slot, axis=axis)


class _AxisNames(tuple[str, ...]):
    """The names of a parameter's axes. A plain tuple would be a node of the tree, and no leaf."""

    @property
    def embed_last_order(self) -> tuple[int, ...]:
        """Its axes with those that are summed over last: one end of every kernel is `embed`."""
        order = tuple(range(len(self)))
        if self[0] == "embed":
            return order[1:] + order[:1]
        if self[-1] == "embed":
            return order[-1:] + order[:-1]
        return order


@functools.cache
def _transposed_layer(config: DecoderConfig) -> tuple[Any, Any]:
    """The definition of a layer whose kernels are turned, and the axes they had before."""
    layer = nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0)))
    axes = {}
    for path, parameter in nnx.to_flat_state(nnx.state(layer)):
        axes[path] = _AxisNames(parameter.get_metadata("axes"))
    for _, node in nnx.iter_graph(layer):
        if isinstance(node, nnx.Param):
            node.set_metadata(IS_TRANSPOSED, "embed" in node.get_metadata("axes") and node.ndim > 1)
    return nnx.split(layer)[0], nnx.traversals.unflatten_mapping(axes)
