"""The layers of a decoder, stacked under `jax.lax.scan`, and what is tapped of them.

One scan applies all layers, whatever is tapped: it writes the hidden states after tapped layers
into a buffer. What is tapped of a layer's attention is computed after the scan from the layer's
input, so that no layer stores its scores, and the weights are not split into parts.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.attention import Attention, AttentionFunction, LayerCache
from jaxdistill.models.attention_kernels import (
    ATTENTION_OUTPUT,
    AttentionRule,
    attention_probs_of_heads,
    mean_attention_probs,
    self_attention,
)
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.execution import Execution, Remat
from jaxdistill.models.layers import FeedForward, NormLayer
from jaxdistill.models.rope import Rotation
from jaxdistill.taps import Projections, Taps, TapValues

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
        rotation: Rotation | None,
        score_scale: Float[Array, ""],
        attention_fn: AttentionFunction,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """Return the hidden states after the layer, and its cache, if there is one."""
        normalised = self.attention_norm(x)
        output, layer_cache = self.attention(normalised, rotation, score_scale, attention_fn)
        x = x + (output if self.attention_post_norm is None else self.attention_post_norm(output))
        output = self.mlp(self.mlp_norm(x))
        x = x + (output if self.mlp_post_norm is None else self.mlp_post_norm(output))
        return x, layer_cache


class StackOutput(NamedTuple):
    """Output of the stacked layers.

    Attributes:
        hidden: Hidden states after the last layer, before the final norm.
        hidden_states: Hidden states after the layers that were asked for, by layer.
        caches: Keys and values of all layers, stacked; None if they were not asked for.
        summaries: Summaries of all layers, stacked.
    """

    hidden: Float[Array, "B T D"]
    hidden_states: dict[int, Float[Array, "B T D"]]
    caches: LayerCache | None
    summaries: Any


class LayerInputs(NamedTuple):
    """Inputs of all layers besides the hidden states.

    Attributes:
        segment_ids: Segment of each token.
        rotations: Rotary embedding of each kind of layer; None without RoPE.
    """

    segment_ids: Int[Array, "B T"]
    rotations: list[Rotation | None]


def apply_layers(
    config: DecoderConfig,
    execution: Execution,
    stacked: Layer,
    x: Float[Array, "B T D"],
    inputs: LayerInputs,
    *,
    keeps_cache: bool,
    layer_summary: LayerSummary,
    hidden_layers: frozenset[int],
    offsets: Mapping[int, Float[Array, "B T D"]],
) -> StackOutput:
    """Apply the layers in turn.

    Returned are also the hidden states after `hidden_layers`: 0, the input, to the last but one.
    `offsets` are added to the hidden states after some of these.
    """
    definition, layers = nnx.split(stacked)
    select_rotation = _rotation_selector(inputs.rotations)
    kernels = [
        self_attention(rule, inputs.segment_ids, execution) for rule in attention_rules(config)
    ]

    @partial(_checkpoint, remat=execution.remat, is_loop=config.num_layers > 1)
    def apply_layer(x, parameters, kind, scale):
        def attend(query, key, value):
            output = _switch(kind, kernels, query, key, value)
            return output, LayerCache(key, value) if keeps_cache else None

        layer = nnx.merge(definition, parameters)
        y, layer_cache = layer(x, select_rotation(kind), scale, attend)
        return y, (layer_cache, layer_summary(x, y))

    buffer = _HiddenBuffer(x, sorted(hidden_layers - {0}), offsets)

    def scan_body(carry, scanned):
        x, written = carry
        buffer_slot, *scanned = scanned
        x, results = apply_layer(x, *scanned)
        return buffer.write(x, written, buffer_slot), results

    x = add_offset(x, offsets.get(0))
    scanned = buffer.slots(config.num_layers), layers, *_layer_constants(config)
    (y, written), (caches, summaries) = jax.lax.scan(scan_body, (x, buffer.empty), scanned)
    hidden_states = ({0: x} if 0 in hidden_layers else {}) | buffer.read(written)
    return StackOutput(y, hidden_states, caches, summaries)


def add_offset(
    x: Float[Array, "B T D"], offset: Float[Array, "B T D"] | None
) -> Float[Array, "B T D"]:
    """Add an offset in the dtype of the hidden states; None adds nothing."""
    return x if offset is None else x + offset.astype(x.dtype)


class _HiddenBuffer:
    """Hidden states after some layers, as an array that a scan carries and writes in place."""

    def __init__(
        self,
        like: Float[Array, "B T D"],
        layers: list[int],
        offsets: Mapping[int, Float[Array, "B T D"]],
    ):
        self._layers = layers
        self.empty = None if not layers else jnp.zeros((len(layers) + 1, *like.shape), like.dtype)
        self._offsets = None
        if any(layer in offsets for layer in layers):
            zeros = jnp.zeros(like.shape, jnp.float32)
            self._offsets = jnp.stack([*(offsets.get(layer, zeros) for layer in layers), zeros])

    def slots(self, num_layers: int) -> Int[np.ndarray, " L"]:
        """Return the slot that each layer writes; layers that are not kept share the last."""
        slots = np.full(num_layers, len(self._layers))
        slots[np.array(self._layers, int) - 1] = np.arange(len(self._layers))
        return slots

    def write(
        self, x: Float[Array, "B T D"], written: Array | None, slot: Array
    ) -> tuple[Float[Array, "B T D"], Array | None]:
        """Return the hidden states with their offset, and the buffer with them in a slot."""
        if written is None:
            return x, None
        if self._offsets is not None:
            x = add_offset(x, self._offsets[slot])
        return x, jax.lax.dynamic_update_index_in_dim(written, x, slot, axis=0)

    def read(self, written: Array | None) -> dict[int, Float[Array, "B T D"]]:
        """Return the hidden states by layer."""
        return {} if written is None else dict(zip(self._layers, written[:-1], strict=True))


def read_taps(
    config: DecoderConfig,
    stacked: Layer,
    hidden_states: Mapping[int, Float[Array, "B T D"]],
    inputs: LayerInputs,
    taps: Taps,
) -> TapValues:
    """Return what is tapped, given the hidden states after layers, by layer.

    Attention is computed again from the input of its layer; the backward pass keeps that input
    alone, so that a mean over heads does not store the map of each.
    """
    definition, modules = nnx.split((stacked.attention_norm, stacked.attention))
    kinds, scales = _layer_constants(config)
    select_rotation = _rotation_selector(inputs.rotations)

    def read(function: Callable[..., Any], layers: tuple[int, ...]) -> dict[int, Any]:
        """Map a function of attention, its input, its kind and scale over layers, in sequence."""
        if not layers:
            return {}

        @partial(_checkpoint, remat="layers", is_loop=len(layers) > 1)
        def read_layer(scanned):
            x, parameters, kind, scale = scanned
            norm, attention = nnx.merge(definition, parameters)
            return function(attention, norm(x), kind, scale)

        indices = np.array(layers) - 1
        stack = jnp.stack([hidden_states[index] for index in indices])
        parameters = jax.tree.map(lambda leaf: leaf[indices], modules)
        values = jax.lax.map(read_layer, (stack, parameters, kinds[indices], scales[indices]))
        return {layer: jax.tree.map(itemgetter(i), values) for i, layer in enumerate(layers)}

    def probs(compute, attention, x, kind, scale):
        query, key = attention.queries_and_keys(x, select_rotation(kind), scale)
        functions = [partial(compute, rule, inputs.segment_ids) for rule in attention_rules(config)]
        return _switch(kind, functions, query, key)

    def projections(attention, x, kind, scale):
        del kind, scale
        return Projections(*(y.reshape(*y.shape[:2], -1) for y in attention.project(x)))

    return TapValues(
        {layer: hidden_states[layer] for layer in taps.hidden},
        read(partial(probs, attention_probs_of_heads), taps.attention),
        read(partial(probs, mean_attention_probs), taps.mean_attention),
        read(projections, taps.projections),
    )


def _checkpoint(function: Callable[..., Any], remat: Remat, *, is_loop: bool) -> Callable[..., Any]:
    """Return the function with what its backward pass computes again.

    Storing projections is faster than storing all residuals: it costs less to recompute norms,
    rotations and activations than to read them from memory.
    """
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    policy = policies.nothing_saveable
    if remat == "projections":
        policy = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable,
            policies.save_only_these_names(ATTENTION_OUTPUT),
        )
    # Outside of a loop, XLA would find that both passes compute the same, and keep everything.
    return jax.checkpoint(function, prevent_cse=not is_loop, policy=policy)


def _switch(kind: Array, functions: Sequence[Callable[..., Any]], *arguments: Any) -> Any:
    """Call the function of a layer's kind."""
    if len(functions) == 1:
        return functions[0](*arguments)
    return jax.lax.switch(kind, functions, *arguments)


def _rotation_selector(rotations: list[Rotation | None]) -> Callable[[Array], Rotation | None]:
    """Return a function from the index of a layer's kind to its rotation."""
    if len(rotations) == 1:  # nothing is selected: it stays a constant of the loop
        return lambda _: rotations[0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rotations)
    return lambda kind: jax.tree.map(lambda leaf: leaf[kind], stacked)


def attention_rules(config: DecoderConfig) -> list[AttentionRule]:
    """Return the rule of each kind of layer."""
    return [AttentionRule(kind.window) for kind in config.distinct_layer_kinds]


def _layer_constants(
    config: DecoderConfig,
) -> tuple[Int[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Return the index of each layer's kind, and the factor of its attention scores."""
    kinds = np.array([config.distinct_layer_kinds.index(kind) for kind in config.layers])
    scales = np.ones(config.num_layers, np.float32)
    if config.is_scaled_by_inverse_layer:
        scales = scales / np.arange(1, config.num_layers + 1, dtype=np.float32)
    return kinds, scales
