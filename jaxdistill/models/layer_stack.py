"""The layers of a decoder, stacked under `jax.lax.scan`; the scan runs in parts between taps."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.attention import (
    Attention,
    AttentionContext,
    AttentionDetails,
    AttentionFunction,
    KVCache,
    LayerCache,
    causal_attention,
    open_attention,
)
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import FeedForward, NormLayer
from jaxdistill.taps import Taps, TapValues

LayerSummary = Callable[[Float[Array, "B T D"], Float[Array, "B T D"]], Any]
"""A function of the hidden states before and after a layer; a static argument of `jax.jit`."""


def no_summary(before: Float[Array, "B T D"], after: Float[Array, "B T D"]) -> None:
    """Keep nothing of a layer."""


class Layer(nnx.Module):
    """Attention and feed-forward network, each with a norm before it and a residual connection."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        embed = config.embed_dim
        self.attention_norm = NormLayer(config, embed=embed)
        self.attention = Attention(config, rngs=rngs)
        self.attention_post_norm = NormLayer(config, embed=embed) if config.has_post_norms else None
        self.mlp_norm = NormLayer(config, embed=embed)
        self.mlp = FeedForward(config, rngs=rngs)
        self.mlp_post_norm = NormLayer(config, embed=embed) if config.has_post_norms else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        score_scale: Float[Array, ""],
        attention_fn: AttentionFunction,
    ) -> tuple[Float[Array, "B T D"], AttentionDetails]:
        """Return the hidden states after the layer, and what its attention computed."""
        output, details = self.attention(self.attention_norm(x), context, score_scale, attention_fn)
        x = x + (output if self.attention_post_norm is None else self.attention_post_norm(output))
        output = self.mlp(self.mlp_norm(x))
        x = x + (output if self.mlp_post_norm is None else self.mlp_post_norm(output))
        return x, details


def apply_layers(
    config: DecoderConfig,
    stacked: Layer,
    x: Float[Array, "B T D"],
    contexts: list[AttentionContext],
    cache: KVCache | None,
    *,
    remat: bool,
    layer_summary: LayerSummary,
    taps: Taps,
    offsets: dict[int, Array],
) -> tuple[Float[Array, "B T D"], tuple[LayerCache | None, Any], TapValues]:
    """Apply the layers in turn, in scans that end where something is tapped.

    Returns:
        Hidden states before the final norm; stacked over layers their caches and summaries, of the
        last scan only; and what is tapped of the layers but for the last hidden state.
    """
    definition, layers = nnx.split(stacked)
    slot, layer_caches = None, None
    if cache is not None:
        slot, layer_caches = cache.length, LayerCache(cache.keys, cache.values)
    select_context = _context_selector(contexts)

    def apply_layer(x, scanned):
        parameters, kind, scale, layer_cache = scanned
        context = select_context(kind)
        attention = causal_attention(context, layer_cache, slot)
        y, details = nnx.merge(definition, parameters)(x, context, scale, attention)
        return y, (details.result, layer_summary(x, y), y if is_stacked else None)

    def apply_opened_layer(x, parameters, kind, scale):
        context = contexts[int(kind)]
        attention = open_attention(context)
        return nnx.merge(definition, parameters)(x, context, scale, attention)

    # Where most layers are tapped, one scan that stacks them all is compiled sooner.
    is_stacked = not taps.opened_layers and len(taps.hidden) > config.num_layers // 2
    is_stacked &= not offsets
    ends = [config.num_layers] if is_stacked else _scan_ends(config.num_layers, taps)
    outputs = None, None, None
    x = x + offsets.get(0, 0)
    values = TapValues({0: x} if 0 in taps.hidden else {}, {}, {}, {})
    scanned = (layers, *_layer_constants(config), layer_caches)
    for end, part in _split_layers(scanned, ends):
        is_loop = len(part[1]) > 1
        if end in taps.opened_layers:
            parameters, kind, scale, _ = jax.tree.map(lambda leaf: leaf[0], part)
            opened = partial(apply_opened_layer, kind=kind, scale=jnp.asarray(scale))
            x, details = _checkpoint(opened, remat, is_loop=False)(x, parameters)
            _add_details(values, taps, end, details)
        else:
            x, outputs = jax.lax.scan(_checkpoint(apply_layer, remat, is_loop=is_loop), x, part)
        if end in taps.hidden and end < config.num_layers:
            x = values.hidden[end] = x + offsets.get(end, 0)
    *outputs, stacked_hidden = outputs
    if stacked_hidden is not None:
        inner = (layer for layer in taps.hidden if 0 < layer < config.num_layers)
        values.hidden.update({layer: stacked_hidden[layer - 1] for layer in inner})
    return x, (outputs[0], outputs[1]), values


def _scan_ends(num_layers: int, taps: Taps) -> list[int]:
    """Return the layers after which a scan ends; an opened layer has one of its own."""
    opened = taps.opened_layers
    before_opened = (layer - 1 for layer in opened)
    return sorted({num_layers, *opened, *before_opened, *taps.hidden} - {0})


def _checkpoint(function: Callable[..., Any], remat: bool, *, is_loop: bool) -> Callable[..., Any]:
    """Recompute most of a layer in the backward pass.

    Storing only the projections is faster than storing all residuals: it costs less to recompute
    norms, rotations, scores and activations than to read them from memory. Outside of a loop, XLA
    would find that both passes compute the same, and keep everything.
    """
    policies = jax.checkpoint_policies
    policy = policies.nothing_saveable if remat else policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(function, prevent_cse=not is_loop, policy=policy)


def _context_selector(contexts: list[AttentionContext]) -> Callable[[Array], AttentionContext]:
    """Return a function from the index of a layer's kind to its context."""
    if len(contexts) == 1:  # nothing is selected: mask and rotation stay constants of the loop
        return lambda _: contexts[0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *contexts)
    return lambda kind: jax.tree.map(lambda leaf: leaf[kind], stacked)


def _layer_constants(
    config: DecoderConfig,
) -> tuple[Int[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Return the index of each layer's kind, and the factor of its attention scores."""
    kinds = np.array([config.distinct_layer_kinds.index(kind) for kind in config.layers])
    scales = np.ones(config.num_layers, np.float32)
    if config.is_scaled_by_inverse_layer:
        scales = scales / np.arange(1, config.num_layers + 1, dtype=np.float32)
    return kinds, scales


def _split_layers(stacked: Any, ends: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Split arrays that are stacked over layers; yield the last layer of each part, and the part.

    The gradient of a split is one concatenation, that of slices a sum of padded arrays.
    """
    if len(ends) == 1:
        yield ends[0], stacked
        return
    sizes = np.diff(ends, prepend=0).tolist()
    leaves, tree = jax.tree.flatten(stacked)
    parts = [
        np.split(leaf, ends[:-1]) if isinstance(leaf, np.ndarray) else jax.lax.split(leaf, sizes)
        for leaf in leaves
    ]
    for end, part in zip(ends, zip(*parts, strict=True), strict=True):
        yield end, jax.tree.unflatten(tree, part)


def _add_details(values: TapValues, taps: Taps, layer: int, details: AttentionDetails) -> None:
    """Add what is tapped of a layer's attention."""
    if layer in taps.attention:
        values.attention[layer] = details.result
    if layer in taps.mean_attention:
        values.mean_attention[layer] = details.result.mean(axis=1)
    if layer in taps.projections:
        values.projections[layer] = details.projections
