"""Causal grouped-query attention, and the cache of keys and values for generation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.layers import NormLayer, apply_linear, constant_param, normal_param
from jaxdistill.models.rope import Rotation, apply_rope, rope_cos_sin

Cache = TypeVar("Cache", bound="CacheSlots")

MASK_VALUE = -1e30
"""Added to the score of a masked key. Finite, so that a row of padding does not become NaN."""


class LayerCache(NamedTuple):
    """The cached keys and values of one layer."""

    keys: Array
    values: Array


AttentionFunction = Callable[[Array, Array, Array], tuple[Array, LayerCache | None]]
"""Maps queries `[B, T, H, C]`, keys and values `[B, T, K, C]` to the attention output
`[B, T, H, C]`, and the updated cache of the layer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CacheSlots:
    """Positions and segments of the cached tokens: `S` slots, the first `length` of them filled.

    All sequences of a batch fill the same slots, so a step writes one slot for all of them
    without moving anything. Segment 0 is an empty slot or padding, which is never attended to:
    prompts of unequal lengths are padded at the end.
    """

    positions: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]

    def reserve_slots(
        self: Cache, positions: Int[Array, "B T"], segment_ids: Int[Array, "B T"]
    ) -> Cache:
        """Return the cache with the next `T` slots set to these tokens; keys and values follow."""
        return replace(
            self,
            positions=update_slice(self.positions, positions, self.length, axis=1),
            segment_ids=update_slice(self.segment_ids, segment_ids, self.length, axis=1),
            length=self.length + positions.shape[1],
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache(CacheSlots):
    """The cache of `forward`: keys and values of all layers, stacked."""

    keys: Float[Array, "L B K S C"]
    values: Float[Array, "L B K S C"]


def update_slice(array: Array, values: Array, start: Array, *, axis: int) -> Array:
    """Write `values` into `array` from index `start` of `axis` on, in the dtype of `array`."""
    return jax.lax.dynamic_update_slice_in_dim(array, values.astype(array.dtype), start, axis=axis)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionContext:
    """The inputs of attention that all layers of one kind share.

    Attributes:
        bias: Added to scores: 0 where a query may attend to a key, `MASK_VALUE` elsewhere.
        rotation: The rotary embedding of the queries' positions; None without RoPE.
    """

    bias: Float[Array, "*kinds B T S"]
    rotation: Rotation | None


def attention_context(
    kind: LayerKind,
    head_dim: int,
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    cache: CacheSlots | None,
) -> AttentionContext:
    """Compute the mask and the rotation of one kind of layer.

    The tokens attend to the slots of `cache`, their own included; without a cache to each other.
    """
    keys = (positions, segment_ids) if cache is None else (cache.positions, cache.segment_ids)
    key_positions, key_segment_ids = keys
    distance = positions[:, :, None] - key_positions[:, None, :]
    is_visible = (segment_ids[:, :, None] == key_segment_ids[:, None, :]) & (distance >= 0)
    if kind.window is not None:
        is_visible &= distance < kind.window
    rotation = rope_cos_sin(kind.rope, head_dim, positions) if kind.rope else None
    return AttentionContext(jnp.where(is_visible, 0.0, MASK_VALUE), rotation)


def attention_probs(
    query: Float[Array, "B T H C"], key: Float[Array, "B K S C"], bias: Float[Array, "B T S"]
) -> Float32[Array, "B K G T S"]:
    """Compute softmax(query · key + bias) in float32, of the `G` query heads of each key head.

    The query heads of a key head are stacked: `[B, K, G * T, C]` is fastest.
    """
    batch, time, heads, channels = query.shape
    kv_heads, slots = key.shape[1:3]
    group_size = heads // kv_heads
    query = query.reshape(batch, time, kv_heads, group_size, channels).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, kv_heads, group_size * time, channels)
    scores = jnp.einsum("bkqc,bksc->bkqs", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, group_size, time, slots) + bias[:, None, None]
    return jax.nn.softmax(scores, axis=-1)


def dot_product_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B K S C"],
    value: Float[Array, "B K S C"],
    bias: Float[Array, "B T S"],
) -> Float[Array, "B T H C"]:
    """Compute softmax(query · key + bias) · value, with scores and softmax in float32."""
    probs = attention_probs(query, key, bias)
    batch, kv_heads, group_size, time, slots = probs.shape
    weights = probs.astype(value.dtype).reshape(batch, kv_heads, group_size * time, slots)
    output = jnp.einsum("bkqs,bksc->bkqc", weights, value)
    output = output.reshape(batch, kv_heads, group_size, time, -1).transpose(0, 3, 1, 2, 4)
    return output.reshape(query.shape)


def causal_attention(
    context: AttentionContext, layer_cache: LayerCache | None, slot: Int[Array, ""] | None
) -> AttentionFunction:
    """Return the attention of tokens to each other, or to a cache in which they are written first.

    The cache has keys and values `[B, K, S, C]`; the tokens fill its slots from `slot` on.
    """

    def attend(query: Array, key: Array, value: Array) -> tuple[Array, LayerCache | None]:
        keys, values = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        if layer_cache is None or slot is None:
            return dot_product_attention(query, keys, values, context.bias), None
        keys = update_slice(layer_cache.keys, keys, slot, axis=2)
        values = update_slice(layer_cache.values, values, slot, axis=2)
        output = dot_product_attention(query, keys, values, context.bias)
        return output, LayerCache(keys, values)

    return attend


class Attention(nnx.Module):
    """Grouped-query attention: `G` query heads share each of `K` key/value heads."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        heads = {"heads": config.num_heads, "channels": config.head_dim}
        kv_heads = {"kv_heads": config.num_kv_heads, "channels": config.head_dim}
        embed = config.embed_dim
        self.query_scale = config.query_scale
        self.query = normal_param(config, rngs, embed=embed, **heads)
        self.key = normal_param(config, rngs, embed=embed, **kv_heads)
        self.value = normal_param(config, rngs, embed=embed, **kv_heads)
        self.output = normal_param(config, rngs, **heads, embed=embed)
        has_bias = config.has_query_key_value_bias
        has_output_bias = config.has_attention_output_bias
        self.query_bias = constant_param(0.0, **heads) if has_bias else None
        self.key_bias = constant_param(0.0, **kv_heads) if has_bias else None
        self.value_bias = constant_param(0.0, **kv_heads) if has_bias else None
        self.output_bias = constant_param(0.0, embed=embed) if has_output_bias else None
        has_norms = config.has_query_key_norm
        self.query_norm = NormLayer(config, channels=config.head_dim) if has_norms else None
        self.key_norm = NormLayer(config, channels=config.head_dim) if has_norms else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        score_scale: Float[Array, ""],
        attention_fn: AttentionFunction,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """Return the attention output of `x`, and the updated cache of the layer."""
        query, key, value = self.project(x)
        query, key = self._rotate(query, key, context, score_scale)
        output, layer_cache = attention_fn(query, key, value)
        return apply_linear(output, self.output, self.output_bias, num_input_axes=2), layer_cache

    def project(self, x: Float[Array, "B T D"]) -> tuple[Array, Array, Array]:
        """Return queries `[B, T, H, C]`, keys and values `[B, T, K, C]` before rotation."""
        query = apply_linear(x, self.query, self.query_bias)
        key = apply_linear(x, self.key, self.key_bias)
        value = apply_linear(x, self.value, self.value_bias)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value

    def probs(
        self, x: Float[Array, "B T D"], context: AttentionContext, score_scale: Float[Array, ""]
    ) -> Float32[Array, "B H T T"]:
        """Return the attention probabilities of `x`, of every query head."""
        query, key = self._rotate(*self.project(x)[:2], context, score_scale)
        probs = attention_probs(query, key.transpose(0, 2, 1, 3), context.bias)
        return probs.reshape(probs.shape[0], -1, *probs.shape[3:])

    def _rotate(
        self, query: Array, key: Array, context: AttentionContext, score_scale: Float[Array, ""]
    ) -> tuple[Array, Array]:
        """Return scaled queries, and keys, both rotated to their positions."""
        scale, rotation = self.query_scale * score_scale, context.rotation
        if rotation is None:
            return (query * scale).astype(query.dtype), key
        # Scaling the small tables instead of the queries costs nothing.
        scaled = Rotation(rotation.cosine * scale, rotation.sine * scale)
        return apply_rope(query, scaled), apply_rope(key, rotation)
