"""The decoder that all families share: stacked layers under one `jax.lax.scan`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache as remember
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
    AttentionFunction,
    KVCache,
    attention_context,
    cached_attention,
    uncached_attention,
)
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.layers import FeedForward, NormLayer, normal_param
from jaxdistill.types import Batch, Embedding, LMHead, ModelOutput, Params


class Layer(nnx.Module):
    """Attention and feed-forward, each behind a norm and around a residual connection."""

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
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The layer's result, and what `mix` wants to be kept."""
        mixed, kept = self.attention(self.attention_norm(x), context, score_scale, attention_fn)
        x = x + (mixed if self.attention_post_norm is None else self.attention_post_norm(mixed))
        inner = self.mlp(self.mlp_norm(x))
        x = x + (inner if self.mlp_post_norm is None else self.mlp_post_norm(inner))
        return x, kept


class Decoder(nnx.Module):
    """Embedding, stacked layers, final norm; the unembedding is left to the `Head`."""

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

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        cache: KVCache | None,
        *,
        remat: bool,
    ) -> ModelOutput:
        """Hidden states after the final norm, and the cache with these tokens in it."""
        config = self.config
        x = self.embed(tokens, positions)
        seen = cache.reserve_slots(positions, segment_ids) if cache is not None else None
        contexts = [
            attention_context(
                kind,
                config.head_dim,
                positions=positions,
                segment_ids=segment_ids,
                key_positions=positions if seen is None else seen.positions,
                key_segment_ids=segment_ids if seen is None else seen.segment_ids,
            )
            for kind in config.distinct_layer_kinds
        ]
        slot = jnp.zeros((), jnp.int32) if cache is None else cache.length
        stores = None if cache is None else (cache.keys, cache.values)
        x, stores = self._scan_layers(x, contexts, stores, slot, remat=remat)
        if seen is not None:
            seen = replace(seen, keys=stores[0], values=stores[1])
        return ModelOutput(self.final_norm(x), seen)

    def embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What the first layer reads."""
        x = self.embedding[...][tokens]
        if self.config.embed_scale != 1:
            x = (x * self.config.embed_scale).astype(x.dtype)
        if self.config.has_learned_positions:
            x = x + self.positions[...][positions]
        return x

    def _scan_layers(
        self,
        x: Float[Array, "B T D"],
        contexts: list[AttentionContext],
        stores: tuple[Array, Array] | None,
        slot: Int[Array, ""],
        *,
        remat: bool,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Apply the layers in turn; `stores` are the stacked keys and values of a cache."""
        config = self.config
        definition, layers = nnx.split(self.layers)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *contexts)
        kinds = np.array([config.distinct_layer_kinds.index(kind) for kind in config.layers])
        scales = np.ones(config.num_layers, np.float32)
        if config.is_scaled_by_inverse_layer:
            scales = scales / np.arange(1, config.num_layers + 1, dtype=np.float32)

        def body(x, layer):
            parameters, kind, scale, store = layer
            # One kind needs no choice: its mask and rotation stay constants of the loop.
            chosen = contexts[0] if len(contexts) == 1 else jax.tree.map(lambda a: a[kind], stacked)
            mix = (
                uncached_attention(chosen)
                if store is None
                else cached_attention(chosen, store, slot)
            )
            apply: Layer = nnx.merge(definition, parameters)
            return apply(x, chosen, scale, mix)

        # Storing the projections alone is faster than storing all that autodiff asks for: what
        # lies between them (norms, rotations, scores, activations) is cheaper made than read.
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable if remat else policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
        return jax.lax.scan(body, x, (layers, kinds, scales, stores))


@remember
def abstract_decoder(config: DecoderConfig) -> tuple[Any, Any]:
    """The module's definition and its parameters' shapes; no array is made."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


def abstract_params(config: DecoderConfig, dtype: Any = "float32") -> dict[str, Any]:
    """The shape and dtype of every parameter, as nested dicts."""
    shapes = nnx.to_pure_dict(abstract_decoder(config)[1])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), shapes)


@partial(jax.jit, static_argnames=("config", "dtype"))
def init_params(config: DecoderConfig, key: Array, dtype: Any = "float32") -> dict[str, Any]:
    """Fresh parameters: normal weights, norms that do nothing yet, zero biases."""
    _, state = nnx.split(Decoder(config, rngs=nnx.Rngs(params=key)))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.to_pure_dict(state))


def parameter_axes(config: DecoderConfig) -> dict[str, Any]:
    """The logical name of every axis of every parameter, for shardings: tuples as leaves."""
    _, state = abstract_decoder(config)

    def names(path: tuple[Any, ...], variable: nnx.Variable) -> tuple[str, ...]:
        stacked = ("layers",) if path[0] == "layers" else ()
        return stacked + variable.get_metadata("axes")

    flat = {path: names(path, variable) for path, variable in nnx.to_flat_state(state)}
    return nnx.traversals.unflatten_mapping(flat)


@partial(jax.jit, static_argnames=("config", "remat"))
def forward(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    cache: KVCache | None = None,
    remat: bool = False,
) -> ModelOutput:
    """Hidden states of tokens that see what is before them in their own segment.

    Computes in the parameters' dtype; norms and softmax are in float32. Dropout keys of a
    config are not used: a student learns from the teacher's whole distribution.

    Args:
        config: What the decoder is made of.
        params: Nested dicts of arrays, as `abstract_params` describes them.
        tokens: Ids; padding may be any id.
        positions: Place of each token in its segment, from 0.
        segment_ids: Which segment a token belongs to, from 1; 0 is padding.
        cache: Where to read what came before and to write these tokens.
        remat: Whether the backward pass also recomputes the projections of each layer, so that
            only the layers' inputs are stored.

    Returns:
        Hidden states after the final norm (padding's mean nothing), and the cache, if one came.
    """
    decoder = nnx.merge(abstract_decoder(config)[0], params)
    return decoder(tokens, positions, segment_ids, cache, remat=remat)


def forward_batch(config: DecoderConfig, params: Params, batch: Batch) -> ModelOutput:
    """`forward` for the places of a `Batch`."""
    return forward(
        config,
        params,
        jnp.asarray(batch.tokens),
        positions=jnp.asarray(batch.positions),
        segment_ids=jnp.asarray(batch.segment_ids),
    )


def lm_head(config: DecoderConfig, params: Params, *, vocab_size: int | None = None) -> LMHead:
    """The unembedding. `vocab_size` is the real one, where the last rows stand for no word."""
    matrix = params["embedding" if config.has_tied_embeddings else "unembedding"]
    return LMHead(
        matrix, soft_cap=config.logit_soft_cap, vocab_size=vocab_size or config.vocab_size
    )


def token_embedding(config: DecoderConfig, params: Params) -> Embedding:
    """What it reads of each word, before its place is added."""
    return Embedding(params["embedding"], scale=config.embed_scale)


def init_cache(
    config: DecoderConfig, batch_size: int, num_slots: int, dtype: Any = "float32"
) -> KVCache:
    """An empty cache of `length` slots: the longest prompt plus the tokens to be written."""
    shape = (config.num_layers, batch_size, config.num_kv_heads, num_slots, config.head_dim)
    empty = jnp.zeros((batch_size, num_slots), jnp.int32)
    return KVCache(
        jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), empty, empty, jnp.zeros((), jnp.int32)
    )


def select_layers(
    config: DecoderConfig, params: Params, layer_indices: Sequence[int]
) -> tuple[DecoderConfig, dict[str, Any]]:
    """A shallower decoder made of some of the layers, each computing what it did before."""
    chosen = np.asarray(layer_indices)
    if np.array_equal(chosen, np.arange(config.num_layers)):
        return config, dict(params)
    stacked = jax.tree.map(lambda leaf: leaf[chosen], params["layers"])
    if config.is_scaled_by_inverse_layer:
        # A layer's place is part of its scale: what the new place takes, the queries give back.
        ratio = (np.arange(len(chosen)) + 1) / (chosen + 1)
        attention = dict(stacked["attention"])
        for name in ("query", "query_bias"):
            leaf = attention[name]
            shape = (-1,) + (1,) * (leaf.ndim - 1)
            attention[name] = (leaf * ratio.reshape(shape)).astype(leaf.dtype)
        stacked = {**stacked, "attention": attention}
    kinds = tuple(config.layers[layer] for layer in layer_indices)
    return replace(config, layers=kinds), {**params, "layers": stacked}
