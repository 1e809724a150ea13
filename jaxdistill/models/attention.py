"""Causal attention with grouped heads, and the cache that lets it go on token by token."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.config import DecoderConfig, LayerKind
from jaxdistill.models.layers import NormLayer, apply_linear, constant_param, normal_param
from jaxdistill.models.rope import apply_rope, rope_cos_sin

MASK_VALUE = -1e30
"""What is added to a score that must not count: finite, so that padding never makes a NaN."""

AttentionFunction = Callable[[Array, Array, Array], tuple[Array, Any]]
"""Queries `[B, T, H, C]`, keys and values `[B, T, K, C]` of some tokens to what the queries see
of all values, `[B, T, H, C]`, and whatever else is to be kept of the layer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens read so far; `S` slots, of which `length` are filled.

    All rows fill the same slots; a slot says which position and segment of its row it holds, and
    0 for the segment means nothing. So prompts of unlike lengths are padded at the end, the
    padding is never seen, and a step writes one slot for all rows without moving anything.
    """

    keys: Float[Array, "L B K S C"]
    values: Float[Array, "L B K S C"]
    positions: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]

    def reserve_slots(
        self, positions: Int[Array, "B T"], segment_ids: Int[Array, "B T"]
    ) -> "KVCache":
        """The cache with the next `T` slots marked as these places; keys and values follow."""
        start = (0, self.length)
        return replace(
            self,
            positions=_update_slice(self.positions, positions, start),
            segment_ids=_update_slice(self.segment_ids, segment_ids, start),
            length=self.length + positions.shape[1],
        )


def _update_slice(array: Array, values: Array, start: tuple[Array | int, ...]) -> Array:
    return jax.lax.dynamic_update_slice(array, values.astype(array.dtype), start)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionContext:
    """What attention needs besides hidden states: the same in all layers of a kind.

    `bias` is added to scores: 0 where a key is seen, `MASK_VALUE` where not. The rotation is None
    without RoPE.
    """

    bias: Float[Array, "*kinds B T S"]
    cosine: Float[Array, "*kinds B T half"] | None
    sine: Float[Array, "*kinds B T half"] | None


def attention_context(
    kind: LayerKind,
    head_dim: int,
    *,
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    key_positions: Int[Array, "B S"],
    key_segment_ids: Int[Array, "B S"],
) -> AttentionContext:
    """The mask and the rotation of one kind of layer."""
    distance = positions[:, :, None] - key_positions[:, None, :]
    seen = (segment_ids[:, :, None] == key_segment_ids[:, None, :]) & (distance >= 0)
    if kind.window is not None:
        seen &= distance < kind.window
    cosine, sine = rope_cos_sin(kind.rope, head_dim, positions) if kind.rope else (None, None)
    return AttentionContext(jnp.where(seen, 0.0, MASK_VALUE), cosine, sine)


def dot_product_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B K S C"],
    value: Float[Array, "B K S C"],
    bias: Float[Array, "B T S"],
) -> Float[Array, "B T H C"]:
    """Softmax in float32. A group's queries are stacked: `[B, K, G * T, C]` is fastest."""
    batch, time, heads, channels = query.shape
    kv_heads, slots = key.shape[1:3]
    groups = heads // kv_heads
    query = query.reshape(batch, time, kv_heads, groups, channels).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, kv_heads, groups * time, channels)
    scores = jnp.einsum("bkqc,bksc->bkqs", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, groups, time, slots) + bias[:, None, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights.reshape(batch, kv_heads, groups * time, slots)
    mixed = jnp.einsum("bkqs,bksc->bkqc", weights, value)
    mixed = mixed.reshape(batch, kv_heads, groups, time, channels).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, time, heads, channels)


def uncached_attention(context: AttentionContext) -> AttentionFunction:
    """Tokens that see each other and nothing else."""

    def mix(query: Array, key: Array, value: Array) -> tuple[Array, None]:
        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        return dot_product_attention(query, key, value, context.bias), None

    return mix


def cached_attention(
    context: AttentionContext,
    layer_cache: tuple[Float[Array, "B K S C"], Float[Array, "B K S C"]],
    slot: Int[Array, ""],
) -> AttentionFunction:
    """Tokens written into a layer's keys and values from `slot` on, which see all before them."""

    def mix(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
        start = (0, 0, slot, 0)
        keys = _update_slice(layer_cache[0], key.transpose(0, 2, 1, 3), start)
        values = _update_slice(layer_cache[1], value.transpose(0, 2, 1, 3), start)
        return dot_product_attention(query, keys, values, context.bias), (keys, values)

    return mix


class Attention(nnx.Module):
    """Grouped-query attention: `G` query heads share each of `K` key and value heads."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        heads = {"heads": config.num_heads, "channels": config.head_dim}
        kv_heads = {"kv_heads": config.num_kv_heads, "channels": config.head_dim}
        embed = config.embed_dim
        self.query_scale = config.query_scale
        self.query = normal_param(config, rngs, embed=embed, **heads)
        self.key = normal_param(config, rngs, embed=embed, **kv_heads)
        self.value = normal_param(config, rngs, embed=embed, **kv_heads)
        self.output = normal_param(config, rngs, **heads, embed=embed)
        bias = config.has_query_key_value_bias
        self.query_bias = constant_param(0.0, **heads) if bias else None
        self.key_bias = constant_param(0.0, **kv_heads) if bias else None
        self.value_bias = constant_param(0.0, **kv_heads) if bias else None
        self.output_bias = (
            constant_param(0.0, embed=embed) if config.has_attention_output_bias else None
        )
        norms = config.has_query_key_norm
        self.query_norm = NormLayer(config, channels=config.head_dim) if norms else None
        self.key_norm = NormLayer(config, channels=config.head_dim) if norms else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        score_scale: Float[Array, ""],
        attention_fn: AttentionFunction,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """What the tokens take from each other, and what `mix` wants to be kept."""
        query = apply_linear(x, self.query, self.query_bias)
        key = apply_linear(x, self.key, self.key_bias)
        value = apply_linear(x, self.value, self.value_bias)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        factor = self.query_scale * score_scale
        if context.cosine is None or context.sine is None:
            query = (query * factor).astype(query.dtype)
        else:
            # Scaling the small tables instead of the queries costs nothing.
            query = apply_rope(query, context.cosine * factor, context.sine * factor)
            key = apply_rope(key, context.cosine, context.sine)
        mixed, kept = attention_fn(query, key, value)
        return apply_linear(mixed, self.output, self.output_bias, num_input_axes=2), kept
