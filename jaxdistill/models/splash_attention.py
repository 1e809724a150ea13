"""Splash attention: the flash attention kernel of JAX for TPUs (Pallas), on a mesh."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxdistill.sharding import BATCH_MESH_AXES

_LANES = 128
"""Channels of a vector register: heads and lengths are padded to multiples of it."""

_MAX_BLOCK = 512
"""Largest block of queries and keys."""


def splash_attention(
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T K C"],
    value: Float[Array, "B T K C"],
    *,
    window: int | None,
    soft_cap: float | None,
    mesh: Mesh,
    output_name: str,
    interpret: bool = False,
) -> Float[Array, "B T H C"]:
    """Compute causal attention within segments; the arguments are those of `AttentionRule`.

    The batch is split over its mesh axes and heads over `tensor`, as parameters are; what the mesh
    does not divide is computed by all of its devices. `output_name` names what a rematerialisation
    policy may store; `interpret` computes without a TPU, for tests.
    """
    length, channels = query.shape[1], query.shape[3]
    batch_axes = BATCH_MESH_AXES if _divides(mesh, BATCH_MESH_AXES, query.shape[0]) else None
    if query.shape[2] % mesh.shape["tensor"] == 0:
        key, value = (_repeat_heads(x, mesh.shape["tensor"]) for x in (key, value))
    is_split = _divides(mesh, ("tensor",), math.gcd(query.shape[2], key.shape[2]))
    heads_axis = "tensor" if is_split else None
    padding = -length % _LANES, -channels % _LANES

    def pad(x: Array) -> Array:
        widths = (0, 0), (0, padding[0]), (0, 0), (0, padding[1])
        return jnp.pad(x, widths).transpose(0, 2, 1, 3)

    attend = jax.shard_map(
        partial(
            _local_attention,
            window=window,
            soft_cap=soft_cap,
            output_name=output_name,
            interpret=interpret,
        ),
        mesh=mesh,
        in_specs=(PartitionSpec(batch_axes), *3 * (PartitionSpec(batch_axes, heads_axis),)),
        out_specs=PartitionSpec(batch_axes, heads_axis),
        check_vma=False,  # the kernel does not say over which axes its outputs vary
    )
    output = attend(jnp.pad(segment_ids, ((0, 0), (0, padding[0]))), *map(pad, (query, key, value)))
    return output.transpose(0, 2, 1, 3)[:, :length, :, :channels]


def _local_attention(
    segment_ids: Int[Array, "B T"],
    query: Float[Array, "B H T C"],
    key: Float[Array, "B K T C"],
    value: Float[Array, "B K T C"],
    *,
    window: int | None,
    soft_cap: float | None,
    output_name: str,
    interpret: bool,
) -> Float[Array, "B H T C"]:
    """Compute the attention of one device's sequences and heads."""
    heads, length = query.shape[1:3]
    shape = length, length
    mask = splash_attention_mask.CausalMask(shape)
    if window is not None:
        mask = splash_attention_mask.LocalMask(shape, (window - 1, 0), offset=0)
    block = max(size for size in range(_LANES, _MAX_BLOCK + 1, _LANES) if length % size == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        residual_checkpoint_name=output_name,
        interpret=interpret,
    )
    segments = splash_attention_kernel.SegmentIds(segment_ids, segment_ids)
    output: Any = jax.vmap(kernel)(query, key, value, segments)  # a pair with residuals only
    return output


def _repeat_heads(x: Float[Array, "B T K C"], num_shards: int) -> Float[Array, "B T X C"]:
    """Repeat key/value heads so that each shard has one, where there are fewer than shards."""
    num_heads = x.shape[2]
    if num_shards > num_heads and num_shards % num_heads == 0:
        return jnp.repeat(x, num_shards // num_heads, axis=2)
    return x


def _divides(mesh: Mesh, axes: tuple[str, ...], size: int) -> bool:
    return size % math.prod(mesh.shape[axis] for axis in axes) == 0
