"""The attention of a layer, and the cache of keys and values for generation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import NormLayer, apply_linear, constant_param, normal_param
from jaxdistill.models.rope import Rotation, apply_rope

Cache = TypeVar("Cache", bound="CacheSlots")


class LayerCache(NamedTuple):
    """The cached keys and values of one layer."""

    keys: Array
    values: Array


AttentionFunction = Callable[[Array, Array, Array], tuple[Array, LayerCache | None]]
"""Maps queries `[B, T, H, C]`, keys and values `[B, T, K, C]` to the attention output
`[B, T, H, C]`, and the cache of the layer, if there is one."""


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
    """The cache that `forward` fills: keys and values of all layers, stacked."""

    keys: Float[Array, "L B S K C"]
    values: Float[Array, "L B S K C"]


def update_slice(array: Array, values: Array, start: Array, *, axis: int) -> Array:
    """Write `values` into `array` from index `start` of `axis` on, in the dtype of `array`."""
    return jax.lax.dynamic_update_slice_in_dim(array, values.astype(array.dtype), start, axis=axis)


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
        rotation: Rotation | None,
        score_scale: Float[Array, ""],
        attention_fn: AttentionFunction,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """Return the attention output of `x`, and the cache of the layer."""
        query, key, value = self.project(x)
        query, key = self._rotate(query, key, rotation, score_scale)
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

    def queries_and_keys(
        self, x: Float[Array, "B T D"], rotation: Rotation | None, score_scale: Float[Array, ""]
    ) -> tuple[Array, Array]:
        """Return scaled queries `[B, T, H, C]` and keys `[B, T, K, C]`, both rotated."""
        return self._rotate(*self.project(x)[:2], rotation, score_scale)

    def _rotate(
        self, query: Array, key: Array, rotation: Rotation | None, score_scale: Float[Array, ""]
    ) -> tuple[Array, Array]:
        """Return scaled queries, and keys, both rotated to their positions."""
        scale = self.query_scale * score_scale
        if rotation is None:
            return (query * scale).astype(query.dtype), key
        # Scaling the small tables instead of the queries costs nothing.
        scaled = Rotation(rotation.cosine * scale, rotation.sine * scale)
        return apply_rope(query, scaled), apply_rope(key, rotation)
