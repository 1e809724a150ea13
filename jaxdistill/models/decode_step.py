"""One decoding step over unstacked layers, so that it reads every weight just once.

A step multiplies a few positions with every weight, so its time is that of reading the weights. A
scan over stacked layers would first copy the weights and the cache of each layer. Therefore
`unstack_layers` and `unstack_cache` separate the layers before the first step, in programs of
their own: compiled together with the steps, XLA could move the copies into them.

During generation the weights of the layers are in memory twice. The stacked ones belong to the
caller and serve the prompt; a step needs other arrays, since a slice of a stacked array is copied
before a product, and since kernels are read at memory speed only with their input axes last.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxdistill.models.attention import (
    AttentionFunction,
    CacheSlots,
    KVCache,
    LayerCache,
    update_slice,
)
from jaxdistill.models.attention_kernels import MASK_VALUE
from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.decoder import abstract_decoder
from jaxdistill.models.layer_stack import Layer
from jaxdistill.models.layers import IS_TRANSPOSED
from jaxdistill.models.rope import rope_cos_sin
from jaxdistill.types import Params

UnstackedLayers = tuple[Params, ...]
"""The parameters of each layer, kernels transposed so that their input axes come last."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnstackedCache(CacheSlots):
    """The cache of `decode_step`: keys `[B, K, C, S]` and values `[B, K, S, C]` of each layer."""

    layers: tuple[LayerCache, ...]


def unstack_layers(config: DecoderConfig, params: Params) -> UnstackedLayers:
    """Copy the parameters of each layer out of the stacked ones, with transposed kernels."""
    return tuple(
        _unstack_layer(config, params["layers"], index) for index in range(config.num_layers)
    )


def unstack_cache(cache: KVCache, num_slots: int) -> UnstackedCache:
    """Copy each layer out of a cache that `forward` has filled, with room for `num_slots` slots."""
    return UnstackedCache(
        positions=_pad_axis(cache.positions, 1, num_slots),
        segment_ids=_pad_axis(cache.segment_ids, 1, num_slots),
        length=cache.length,
        layers=tuple(
            _unstack_layer_cache(cache, index, num_slots) for index in range(cache.keys.shape[0])
        ),
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
    """Compute the hidden states of one more token of every sequence, in segment 1.

    Layers of `params` are not read, but those from `unstack_layers`; `cache` needs a free slot.

    Returns:
        Hidden states after the final norm, and the cache with these tokens in it.
    """
    decoder = nnx.merge(abstract_decoder(config)[0], params)
    positions, slot = positions[:, None], cache.length
    segment_ids = jnp.ones_like(positions)
    cache = cache.reserve_slots(positions, segment_ids)
    rotations = {
        kind: rope_cos_sin(kind.rope, config.head_dim, positions) if kind.rope else None
        for kind in config.distinct_layer_kinds
    }
    masks = {kind: _visible_slots(kind, positions, cache) for kind in config.distinct_layer_kinds}
    x = decoder.embed(tokens[:, None], positions)
    layer_caches = []
    for index, kind in enumerate(config.layers):
        layer = nnx.merge(_transposed_layer(config).definition, layers[index])
        scale = 1 / (index + 1) if config.is_scaled_by_inverse_layer else 1.0
        attention = _step_attention(masks[kind], cache.layers[index], slot)
        x, layer_cache = layer(x, rotations[kind], jnp.float32(scale), attention)
        layer_caches.append(layer_cache)
    return decoder.final_norm(x)[:, 0], replace(cache, layers=tuple(layer_caches))


def _visible_slots(
    kind: LayerKind, positions: Int[Array, "B 1"], cache: CacheSlots
) -> Bool[Array, "B S"]:
    """Return the slots that one token per sequence, in segment 1, attends to, its own included."""
    distance = positions - cache.positions
    is_visible = (cache.segment_ids == 1) & (distance >= 0)
    return is_visible if kind.window is None else is_visible & (distance < kind.window)


def _step_attention(
    is_visible: Bool[Array, "B S"], layer_cache: LayerCache, slot: Int[Array, ""]
) -> AttentionFunction:
    """Return the attention of one token per sequence to a cache, in which it is written first.

    Scores and outputs are sums of products; a matrix product for one query is slower (measured).
    """

    def attend(query: Array, key: Array, value: Array) -> tuple[Array, LayerCache]:
        batch, _, heads, channels = query.shape
        keys = update_slice(layer_cache.keys, key.transpose(0, 2, 3, 1), slot, axis=3)
        values = update_slice(layer_cache.values, value.transpose(0, 2, 1, 3), slot, axis=2)
        grouped = query.reshape(batch, keys.shape[1], -1, channels, 1).astype(jnp.float32)
        scores = (grouped * keys[:, :, None]).sum(axis=3)
        scores = jnp.where(is_visible[:, None, None], scores, MASK_VALUE)
        weights = jax.nn.softmax(scores, axis=-1)
        output = (weights[..., None] * values[:, :, None]).sum(axis=3).astype(query.dtype)
        return output.reshape(batch, 1, heads, channels), LayerCache(keys, values)

    return attend


@functools.partial(jax.jit, static_argnums=0)
def _unstack_layer(config: DecoderConfig, stacked: Params, index: Array | int) -> Params:
    """Copy and transpose the parameters of one layer; compiled once for all layers."""
    axis_orders = _transposed_layer(config).axis_orders
    layer = {
        path: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False).transpose(axis_orders[path])
        for path, leaf in nnx.traversals.flatten_mapping(stacked).items()
    }
    return nnx.traversals.unflatten_mapping(layer)


@functools.partial(jax.jit, static_argnums=2)
def _unstack_layer_cache(cache: KVCache, index: Array | int, num_slots: int) -> LayerCache:
    """Copy one layer out of a cache, with `num_slots` slots; compiled once for all layers."""
    keys, values = (
        jax.lax.dynamic_index_in_dim(array, index, keepdims=False)
        for array in (cache.keys, cache.values)
    )
    keys, values = keys.transpose(0, 2, 3, 1), values.swapaxes(1, 2)
    return LayerCache(_pad_axis(keys, 3, num_slots), _pad_axis(values, 2, num_slots))


def _pad_axis(array: Array, axis: int, new_size: int) -> Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, new_size - array.shape[axis])
    return jnp.pad(array, widths)


class _TransposedLayer(NamedTuple):
    """The module of a layer with transposed kernels, and the axis order of each parameter."""

    definition: nnx.GraphDef[Layer]
    axis_orders: dict[tuple[Any, ...], tuple[int, ...]]


@functools.cache
def _transposed_layer(config: DecoderConfig) -> _TransposedLayer:
    layer = nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0)))
    axis_orders = {
        path: _embed_last_order(parameter.get_metadata("axes"))
        for path, parameter in nnx.to_flat_state(nnx.state(layer))
    }
    for _, node in nnx.iter_graph(layer):
        if isinstance(node, nnx.Param):
            node.set_metadata(IS_TRANSPOSED, "embed" in node.get_metadata("axes") and node.ndim > 1)
    return _TransposedLayer(nnx.split(layer)[0], axis_orders)


def _embed_last_order(axes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the order that puts a kernel's input axes last; `embed` is its first or last axis."""
    order = tuple(range(len(axes)))
    if axes[0] == "embed":
        return order[1:] + order[:1]
    if axes[-1] == "embed":
        return order[-1:] + order[:-1]
    return order
