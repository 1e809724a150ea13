"""Attention of the tokens of a text to each other: one rule, and the kernels that compute it.

Queries attend to keys of their own segment, at their own index or before. A rule says the rest. It
is never an array: each kernel computes the mask of what it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from jaxdistill.models.execution import Execution
from jaxdistill.models.splash_attention import splash_attention

MASK_VALUE = -1e30
"""Score of a masked key. Finite, so that a row of padding does not become NaN."""

ATTENTION_OUTPUT = "attention_output"
"""Name of the output of attention for rematerialisation policies."""

_MAX_DENSE_LENGTH = 128
"""Length above which scores are computed a block of queries at a time."""

_QUERY_BLOCK = 64
_NUM_KEY_LENGTHS = 4
"""Number of prefixes of the keys, of which a block of queries reads the shortest that it needs."""


@dataclass(frozen=True)
class AttentionRule:
    """Keys that a query attends to, and how; hashable.

    Attributes:
        window: Number of keys before it that a query sees, its own included; None for all.
        soft_cap: Scores are `cap * tanh(scores / cap)`; None leaves them as they are.
    """

    window: int | None = None
    soft_cap: float | None = None


SelfAttention = Callable[[Array, Array, Array], Array]
"""Maps queries `[B, T, H, C]`, scaled, keys and values `[B, T, K, C]` to `[B, T, H, C]`."""


def self_attention(
    rule: AttentionRule, segment_ids: Int[Array, "B T"], execution: Execution
) -> SelfAttention:
    """Return the kernel for texts of this length on the devices of the program."""
    length = segment_ids.shape[1]
    if execution.mesh is not None and execution.platform == "tpu":
        return partial(  # which names its output itself
            splash_attention,
            segment_ids,
            window=rule.window,
            soft_cap=rule.soft_cap,
            mesh=execution.mesh,
            output_name=ATTENTION_OUTPUT,
        )
    if execution.platform == "gpu" and rule.soft_cap is None:
        kernel = partial(_flash_attention_of_gpu, rule)
    elif length > _MAX_DENSE_LENGTH:
        kernel = partial(blocked_attention, rule)
    else:
        kernel = partial(dense_attention, rule)

    def attend(query: Array, key: Array, value: Array) -> Array:
        return checkpoint_name(kernel(segment_ids, query, key, value), ATTENTION_OUTPUT)

    return attend


def visible_keys(
    rule: AttentionRule,
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    first_query: int | Array = 0,
) -> Bool[Array, "B T S"]:
    """Return the mask of keys that queries attend to; the first query stands at `first_query`."""
    query_index = first_query + jnp.arange(query_segments.shape[1])
    distance = query_index[:, None] - jnp.arange(key_segments.shape[1])[None]
    is_near = distance >= 0 if rule.window is None else (distance >= 0) & (distance < rule.window)
    return (query_segments[:, :, None] == key_segments[:, None, :]) & is_near[None]


def attention_probs(
    rule: AttentionRule,
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S K C"],
    is_visible: Bool[Array, "B T S"],
) -> Float32[Array, "B K G T S"]:
    """Compute softmax(query · key) in float32, of the `G` query heads of each key head.

    The query heads of a key head are stacked: `[B, K, G * T, C]` is fastest.
    """
    batch, time, heads, channels = query.shape
    slots, kv_heads = key.shape[1:3]
    group_size = heads // kv_heads
    query = query.reshape(batch, time, kv_heads, group_size, channels).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, kv_heads, group_size * time, channels)
    keys = key.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkqc,bksc->bkqs", query, keys, preferred_element_type=jnp.float32)
    if rule.soft_cap is not None:
        scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
    scores = scores.reshape(batch, kv_heads, group_size, time, slots)
    return jax.nn.softmax(jnp.where(is_visible[:, None, None], scores, MASK_VALUE), axis=-1)


def attention_probs_of_heads(
    rule: AttentionRule,
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
) -> Float32[Array, "B H T T"]:
    """Compute `attention_probs` of a text, of every query head."""
    probs = attention_probs(rule, query, key, visible_keys(rule, segment_ids, segment_ids))
    return probs.reshape(probs.shape[0], -1, *probs.shape[3:])


def mean_attention_probs(
    rule: AttentionRule,
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
) -> Float32[Array, "B T T"]:
    """Average `attention_probs` over heads, for a block of queries at a time."""
    batch, length = segment_ids.shape
    size = _QUERY_BLOCK if length > _MAX_DENSE_LENGTH else length
    segments, queries = (_pad_to_blocks(x, size) for x in (segment_ids, query))

    @partial(jax.checkpoint, prevent_cse=False)
    def average(start: Array) -> Array:
        own_segments, own = (_slice(x, start, size) for x in (segments, queries))
        is_visible = visible_keys(rule, own_segments, segment_ids, first_query=start)
        return attention_probs(rule, own, key, is_visible).mean(axis=(1, 2))

    blocks = jax.lax.map(average, jnp.arange(0, queries.shape[1], size))
    return blocks.swapaxes(0, 1).reshape(batch, -1, length)[:, :length]


def dense_attention(
    rule: AttentionRule,
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
) -> Float[Array, "B T H C"]:
    """Compute softmax(query · key) · value, with scores and softmax in float32."""
    is_visible = visible_keys(rule, segment_ids, segment_ids)
    return _weighted_values(attention_probs(rule, query, key, is_visible), value)


def blocked_attention(
    rule: AttentionRule,
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
) -> Float[Array, "B T H C"]:
    """Compute `dense_attention` for a block of queries at a time, over keys that it may see.

    The backward pass computes the scores of a block again, so that no array is `[T, T]`.
    """
    length = query.shape[1]
    segment_ids, query, key, value = (
        _pad_to_blocks(x, _QUERY_BLOCK) for x in (segment_ids, query, key, value)
    )
    num_blocks = query.shape[1] // _QUERY_BLOCK
    # Blocks of one group read as many keys: with more groups, fewer keys are read in vain.
    num_groups = 1 if rule.window is not None else min(num_blocks, _NUM_KEY_LENGTHS)
    bounds = [num_blocks * group // num_groups for group in range(num_groups + 1)]
    outputs = []
    for first, last in pairwise(bounds):
        keys = (x[:, : last * _QUERY_BLOCK] for x in (segment_ids, key, value))
        outputs.append(_attend_blocks(rule, range(first, last), segment_ids, query, *keys))
    return jnp.concatenate(outputs, axis=1)[:, :length]


def _attend_blocks(
    rule: AttentionRule,
    blocks: range,
    query_segments: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key_segments: Int[Array, "B S"],
    key: Float[Array, "B S K C"],
    value: Float[Array, "B S K C"],
) -> Float[Array, "B X H C"]:
    """Compute attention of some blocks of queries, one after the other."""
    size, num_keys = _QUERY_BLOCK, key.shape[1]
    if rule.window is not None:
        num_keys = min(num_keys, size + rule.window - 1)

    @partial(jax.checkpoint, prevent_cse=False)
    def attend(block: Array) -> Array:
        start = block * size
        first_key = jnp.maximum(start + size - num_keys, 0)
        segments, queries = (_slice(x, start, size) for x in (query_segments, query))
        seen_segments, *seen = (_slice(x, first_key, num_keys) for x in (key_segments, key, value))
        is_visible = visible_keys(rule, segments, seen_segments, first_query=start - first_key)
        return _weighted_values(attention_probs(rule, queries, seen[0], is_visible), seen[1])

    outputs = jax.lax.map(attend, jnp.arange(blocks.start, blocks.stop))
    return outputs.swapaxes(0, 1).reshape(query.shape[0], -1, *query.shape[2:])


def _pad_to_blocks(x: Shaped[Array, "B T *X"], size: int) -> Shaped[Array, "B X *X"]:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2))


def _slice(x: Shaped[Array, "B T *X"], start: Array, size: int) -> Shaped[Array, "B size *X"]:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _flash_attention_of_gpu(
    rule: AttentionRule,
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
) -> Float[Array, "B T H C"]:
    """Compute attention by cuDNN, which reads the mask of segments as an array and 16 bits alone.

    Other dtypes are computed in blocks.
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return blocked_attention(rule, segment_ids, query, key, value)
    mask = visible_keys(rule, segment_ids, segment_ids)[:, None]
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=1.0, implementation="cudnn"
    )


def _weighted_values(
    probs: Float32[Array, "B K G T S"], value: Float[Array, "B S K C"]
) -> Float[Array, "B T H C"]:
    batch, kv_heads, group_size, time, slots = probs.shape
    weights = probs.astype(value.dtype).reshape(batch, kv_heads, group_size * time, slots)
    output = jnp.einsum("bkqs,bksc->bkqc", weights, value.transpose(0, 2, 1, 3))
    output = output.reshape(batch, kv_heads, group_size, time, -1).transpose(0, 3, 1, 2, 4)
    return output.reshape(batch, time, kv_heads * group_size, -1)
