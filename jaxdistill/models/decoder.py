"""The decoder of all model families: token embedding, stacked layers, final norm and LM head."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdistill.models.attention import KVCache
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.execution import DEFAULT_EXECUTION, Execution
from jaxdistill.models.layer_stack import (
    Layer,
    LayerInputs,
    LayerSummary,
    add_offset,
    apply_layers,
    no_summary,
    read_taps,
)
from jaxdistill.models.layers import NormLayer, normal_param
from jaxdistill.models.rope import rope_cos_sin
from jaxdistill.taps import NO_TAPS, Taps
from jaxdistill.types import Batch, Embedding, LMHead, ModelOutput, Params


class Decoder(nnx.Module):
    """The modules of a decoder: token embedding, stacked layers, final norm, untied LM head."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        vocab, embed = config.vocab_size, config.embed_dim
        self.config = config

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs=rngs)

        self.embedding = normal_param(config, rngs, vocab=vocab, embed=embed)
        if config.has_learned_positions:
            self.positions = normal_param(config, rngs, positions=config.max_positions, embed=embed)
        self.layers = stacked(rngs)
        self.final_norm = NormLayer(config, embed=embed)
        if not config.has_tied_embeddings:
            self.unembedding = normal_param(config, rngs, vocab=vocab, embed=embed)

    def embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Return the input of the first layer: scaled token and learned position embeddings."""
        x = self.embedding[...][tokens]
        if self.config.embed_scale != 1:
            x = (x * self.config.embed_scale).astype(x.dtype)
        if self.config.has_learned_positions:
            x = x + self.positions[...][positions]
        return x


@functools.cache
def abstract_decoder(config: DecoderConfig) -> tuple[nnx.GraphDef[Decoder], Any]:
    """Return the module's definition and the shapes of its parameters, without allocating any."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


def abstract_params(config: DecoderConfig, dtype: Any = "float32") -> dict[str, Any]:
    """Return the shape and dtype of every parameter, as nested dicts."""
    shapes = nnx.to_pure_dict(abstract_decoder(config)[1])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), shapes)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def init_params(config: DecoderConfig, key: Array, dtype: Any = "float32") -> dict[str, Any]:
    """Initialise parameters: normal weights, zero biases, norms that scale by one."""
    _, state = nnx.split(Decoder(config, rngs=nnx.Rngs(params=key)))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.to_pure_dict(state))


def parameter_axes(config: DecoderConfig) -> dict[str, Any]:
    """Return the logical axis names of every parameter; the leaves of the tree are tuples."""
    _, state = abstract_decoder(config)

    def axis_names(path: tuple[Any, ...], variable: nnx.Variable) -> tuple[str, ...]:
        stacked = ("layers",) if path[0] == "layers" else ()
        return stacked + variable.get_metadata("axes")

    flat = {path: axis_names(path, variable) for path, variable in nnx.to_flat_state(state)}
    return nnx.traversals.unflatten_mapping(flat)


@functools.partial(
    jax.jit, static_argnames=("config", "execution", "keeps_cache", "layer_summary", "taps")
)
def forward(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    execution: Execution = DEFAULT_EXECUTION,
    keeps_cache: bool = False,
    layer_summary: LayerSummary = no_summary,
    taps: Taps = NO_TAPS,
    offsets: dict[int, Array] | None = None,
) -> ModelOutput:
    """Compute hidden states; each token attends to the tokens before it in its segment.

    Computes in the dtype of the parameters, but norms and softmax in float32. Dropout rates of a
    `config.json` are not used: a student fits the teacher's whole distribution.

    Args:
        config: The architecture.
        params: Nested dicts of arrays, as `abstract_params` describes them.
        tokens: Token ids; padding may be any id.
        positions: Position of each token in its segment, from 0.
        segment_ids: Segment of each token, from 1; 0 is padding.
        execution: How it is computed.
        keeps_cache: True to return keys and values, for tokens that follow.
        layer_summary: Computes `ModelOutput.layer_summaries`.
        taps: What to return from inside of the model.
        offsets: Added to the tapped hidden states of these layers, and so to all that follows.

    Returns:
        Hidden states after the final norm (meaningless at padding), the cache, the summaries of
        the layers, and what was tapped.
    """
    assert set(offsets or {}) <= set(taps.hidden), "an offset is of a tapped layer"
    decoder = nnx.merge(abstract_decoder(config)[0], params)
    x = decoder.embed(tokens, positions)
    rotations = [
        rope_cos_sin(kind.rope, config.head_dim, positions) if kind.rope else None
        for kind in config.distinct_layer_kinds
    ]
    inputs = LayerInputs(segment_ids, rotations)
    last, offsets = config.num_layers, offsets or {}
    output = apply_layers(
        config,
        execution,
        decoder.layers,
        x,
        inputs,
        keeps_cache=keeps_cache,
        layer_summary=layer_summary,
        hidden_layers=taps.hidden_layers - {last},
        offsets=offsets,
    )
    hidden = decoder.final_norm(output.hidden)
    if last in taps.hidden:
        hidden = add_offset(hidden, offsets.get(last))
    hidden_states = output.hidden_states | {last: hidden}
    values = read_taps(config, decoder.layers, hidden_states, inputs, taps)
    cache = None
    if output.caches is not None:
        length = jnp.int32(tokens.shape[1])
        cache = KVCache(positions, segment_ids, length, output.caches.keys, output.caches.values)
    return ModelOutput(hidden, cache, output.summaries, values)


def forward_batch(
    config: DecoderConfig,
    params: Params,
    batch: Batch,
    *,
    execution: Execution = DEFAULT_EXECUTION,
    layer_summary: LayerSummary = no_summary,
) -> ModelOutput:
    """Call `forward` on the tokens of a `Batch`."""
    return forward(
        config,
        params,
        jnp.asarray(batch.tokens),
        positions=jnp.asarray(batch.positions),
        segment_ids=jnp.asarray(batch.segment_ids),
        execution=execution,
        layer_summary=layer_summary,
    )


def lm_head(config: DecoderConfig, params: Params, *, vocab_size: int | None = None) -> LMHead:
    """Return the LM head; rows of its matrix from `vocab_size` on (None: all exist) are padding."""
    matrix = params["embedding" if config.has_tied_embeddings else "unembedding"]
    return LMHead(
        matrix, soft_cap=config.logit_soft_cap, vocab_size=vocab_size or config.vocab_size
    )


def token_embedding(config: DecoderConfig, params: Params) -> Embedding:
    """Return the token embedding, before learned positions are added."""
    return Embedding(params["embedding"], scale=config.embed_scale)


def with_layers(config: DecoderConfig, indices: Sequence[int]) -> DecoderConfig:
    """Return the config of a decoder of some of the layers."""
    return replace(config, layers=tuple(config.layers[index] for index in indices))


def select_layers(
    config: DecoderConfig, params: Params, layer_indices: Sequence[int]
) -> dict[str, Any]:
    """Return the parameters of some of the layers, each of which computes the same as before."""
    indices = np.asarray(layer_indices)
    if np.array_equal(indices, np.arange(config.num_layers)):
        return dict(params)
    stacked = jax.tree.map(lambda leaf: leaf[indices], params["layers"])
    if config.is_scaled_by_inverse_layer:
        # Scores are divided by the layer's index + 1; the queries make up for the new index.
        ratio = (np.arange(len(indices)) + 1) / (indices + 1)
        attention = dict(stacked["attention"])
        for name in ("query", "query_bias"):
            leaf = attention[name]
            factor = ratio.reshape((-1,) + (1,) * (leaf.ndim - 1))
            attention[name] = (leaf * factor).astype(leaf.dtype)
        stacked = {**stacked, "attention": attention}
    return {**params, "layers": stacked}
