"""One token at a time: the same layers, laid out so that a step reads every weight once.

A step multiplies a few rows with every weight there is, so it takes as long as reading them. A
scan over stacked layers would copy each layer's weights, and its part of the cache, before using
them. So `take_apart` and `extend` separate the layers, before the first step; both are called
outside of what is compiled, so that the compiler cannot move their work into the steps.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.attention import Cache, Context, Mix, context
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import Decoder, Layer, blueprint
from jaxdistill.models.layers import OUTPUTS_FIRST
from jaxdistill.types import Params

Layers = tuple[Params, ...]
"""The parameters of each layer, as `take_apart` gives them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepCache:
    """A `Cache` whose layers are separate; keys have their slots last, values before channels."""

    keys: tuple[Float[Array, "B K C S"], ...]
    values: tuple[Float[Array, "B K S C"], ...]
    positions: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]


def take_apart(config: DecoderConfig, params: Params) -> Layers:
    """A copy of each layer's parameters, kernels turned so that what is summed over is last."""
    return tuple(_layer(config, params["layers"], number) for number in range(config.num_layers))


def extend(cache: Cache, length: int) -> StepCache:
    """What `forward` has put into a cache, with `length` slots in all."""
    parts = [_slots(cache, number, length) for number in range(cache.keys.shape[0])]
    return StepCache(
        keys=tuple(keys for keys, _ in parts),
        values=tuple(values for _, values in parts),
        positions=_wider(cache.positions, 1, length),
        segment_ids=_wider(cache.segment_ids, 1, length),
        length=cache.length,
    )


def step(
    config: DecoderConfig,
    params: Params,
    layers: Layers,
    tokens: Int[Array, " B"],
    *,
    positions: Int[Array, " B"],
    cache: StepCache,
) -> tuple[Float[Array, "B D"], StepCache]:
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
    decoder: Decoder = nnx.merge(blueprint(config)[0], params)
    places, slot = positions[:, None], cache.length
    segments = jnp.ones_like(places)
    key_positions = _write(cache.positions, places, slot, axis=1)
    key_segments = _write(cache.segment_ids, segments, slot, axis=1)
    contexts = {
        kind: context(
            kind,
            config.head_dim,
            positions=places,
            segment_ids=segments,
            key_positions=key_positions,
            key_segment_ids=key_segments,
        )
        for kind in config.kinds
    }
    x = decoder.embed(tokens[:, None], places)
    stores = []
    for number, kind in enumerate(config.layers):
        layer: Layer = nnx.merge(_outputs_first(config)[0], layers[number])
        scale = 1 / (number + 1) if config.is_scaled_by_inverse_layer else 1.0
        mix = _mix(contexts[kind], cache.keys[number], cache.values[number], slot)
        x, store = layer(x, contexts[kind], jnp.float32(scale), mix)
        stores.append(store)
    return decoder.final_norm(x)[:, 0], StepCache(
        keys=tuple(keys for keys, _ in stores),
        values=tuple(values for _, values in stores),
        positions=key_positions,
        segment_ids=key_segments,
        length=slot + 1,
    )


def _mix(
    context: Context,
    keys: Float[Array, "B K C S"],
    values: Float[Array, "B K S C"],
    slot: Int[Array, ""],
) -> Mix:
    """Attention of one token a row, written as sums: a matrix product of one row is slower."""

    def mix(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
        batch, _, heads, channels = query.shape
        new_keys = _write(keys, key.transpose(0, 2, 3, 1), slot, axis=3)
        new_values = _write(values, value.transpose(0, 2, 1, 3), slot, axis=2)
        grouped = query.reshape(batch, keys.shape[1], -1, channels, 1).astype(jnp.float32)
        scores = (grouped * new_keys[:, :, None]).sum(axis=3) + context.bias[:, None]
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = (weights[..., None] * new_values[:, :, None]).sum(axis=3).astype(query.dtype)
        return mixed.reshape(batch, 1, heads, channels), (new_keys, new_values)

    return mix


@functools.partial(jax.jit, static_argnums=0)
def _layer(config: DecoderConfig, stacked: Params, number: Array | int) -> Params:
    """One layer's parameters; compiled once for all layers."""

    def turned(leaf: Array, axes: "_Axes") -> Array:
        return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False).transpose(axes.order)

    return jax.tree.map(turned, stacked, _outputs_first(config)[1])


@functools.partial(jax.jit, static_argnums=2)
def _slots(
    cache: Cache, number: Array | int, length: int
) -> tuple[Float[Array, "B K C S"], Float[Array, "B K S C"]]:
    """One layer's part of a cache, with `length` slots; compiled once for all layers."""
    keys, values = (
        jax.lax.dynamic_index_in_dim(array, number, keepdims=False)
        for array in (cache.keys, cache.values)
    )
    return _wider(keys.swapaxes(2, 3), 3, length), _wider(values, 2, length)


def _wider(array: Array, axis: int, length: int) -> Array:
    widths = [(0, length - size if place == axis else 0) for place, size in enumerate(array.shape)]
    return jnp.pad(array, widths)


def _write(array: Array, new: Array, slot: Array, *, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, new.astype(array.dtype), slot, axis=axis)


class _Axes(tuple[str, ...]):
    """The names of a parameter's axes. A plain tuple would be a node of the tree, and no leaf."""

    @property
    def order(self) -> tuple[int, ...]:
        """Its axes with those that are summed over last: one end of every kernel is `embed`."""
        order = tuple(range(len(self)))
        if self[0] == "embed":
            return order[1:] + order[:1]
        if self[-1] == "embed":
            return order[-1:] + order[:-1]
        return order


@functools.cache
def _outputs_first(config: DecoderConfig) -> tuple[Any, Any]:
    """The definition of a layer whose kernels are turned, and the axes they had before."""
    layer = nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0)))
    axes = {}
    for path, parameter in nnx.to_flat_state(nnx.state(layer)):
        axes[path] = _Axes(parameter.get_metadata("axes"))
    for _, node in nnx.iter_graph(layer):
        if isinstance(node, nnx.Param):
            node.set_metadata(OUTPUTS_FIRST, "embed" in node.get_metadata("axes") and node.ndim > 1)
    return nnx.split(layer)[0], nnx.traversals.unflatten_mapping(axes)
