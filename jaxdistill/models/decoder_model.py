"""The decoder as a `LanguageModel`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdistill.models import decoder
from jaxdistill.models.attention import KVCache
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decode_step import (
    UnstackedCache,
    UnstackedLayers,
    decode_step,
    unstack_cache,
    unstack_layers,
)
from jaxdistill.models.execution import DEFAULT_EXECUTION, Execution
from jaxdistill.models.flops import forward_flops
from jaxdistill.models.language_model import LanguageModel, Tokens
from jaxdistill.models.layer_importance import ImportanceSums, importance_sums
from jaxdistill.taps import NO_OFFSETS, NO_TAPS, Taps, Widths
from jaxdistill.types import Batch, Embedding, LMHead, ModelOutput, Params


@dataclass(frozen=True)
class DecoderModel(LanguageModel):
    """A decoder-only transformer of this architecture."""

    config: DecoderConfig
    execution: Execution = DEFAULT_EXECUTION

    def with_execution(self, execution: Execution) -> "DecoderModel":
        """Return the model, computed in this way."""
        return replace(self, execution=execution)

    @property
    def vocab_size(self) -> int:
        """Number of rows of the token embedding, padding included."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Maximum length of a sequence."""
        return self.config.max_positions

    @property
    def widths(self) -> Widths:
        """Sizes of what can be tapped."""
        config = self.config
        return Widths(
            hidden=config.embed_dim,
            layers=config.num_layers,
            query=config.num_heads * config.head_dim,
            key_value=config.num_kv_heads * config.head_dim,
        )

    def forward_flops(self, length: int) -> float:
        """Count the floating-point operations of a sequence, without the LM head."""
        return forward_flops(self.config, length)

    def abstract_params(self, dtype: Any = "float32") -> Params:
        """Return shape and dtype of every parameter."""
        return decoder.abstract_params(self.config, dtype)

    def axes(self) -> Params:
        """Return the logical axis names of every parameter, as tuples."""
        return decoder.parameter_axes(self.config)

    def init_params(self, key: Array, dtype: Any = "float32") -> Params:
        """Return normal weights, zero biases, and norms that scale by one."""
        return decoder.init_params(self.config, key, dtype)

    def with_layers(self, indices: Sequence[int]) -> "DecoderModel":
        """Return the architecture of some layers, counted from 0."""
        return replace(self, config=decoder.with_layers(self.config, indices))

    def select_layers(self, params: Params, indices: Sequence[int]) -> Params:
        """Return the parameters of some layers, each of which computes as before."""
        return decoder.select_layers(self.config, params, indices)

    def importance_sums(self, params: Params, batch: Batch) -> ImportanceSums:
        """Sum the importance of each layer over the scored positions of a batch."""
        return importance_sums(self.config, self.execution, params, batch)

    def forward(
        self,
        params: Params,
        tokens: Tokens,
        *,
        positions: Tokens,
        segment_ids: Tokens,
        taps: Taps = NO_TAPS,
        offsets: Mapping[int, Array] = NO_OFFSETS,
    ) -> ModelOutput:
        """Compute hidden states; see `decoder.forward`."""
        return decoder.forward(
            self.config,
            params,
            tokens,
            positions=positions,
            segment_ids=segment_ids,
            execution=self.execution,
            taps=taps,
            offsets=dict(offsets),
        )

    def lm_head(self, params: Params, *, vocab_size: int | None = None) -> LMHead:
        """Return the LM head; rows of its matrix from `vocab_size` on are padding."""
        return decoder.lm_head(self.config, params, vocab_size=vocab_size)

    def embedding(self, params: Params) -> Embedding:
        """Return the token embedding, before learned positions are added."""
        return decoder.token_embedding(self.config, params)

    def prefill(
        self, params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Read prompts, padded at their ends, and return hidden states and the cache."""
        batch, time = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(time)[None], (batch, time))
        output = decoder.forward(
            self.config,
            params,
            tokens,
            positions=positions,
            segment_ids=(positions < lengths[:, None]).astype(jnp.int32),
            execution=self.execution,
            keeps_cache=True,
        )
        return output.hidden, output.cache

    def decode_params(self, params: Params) -> UnstackedLayers:
        """Return the layers one by one, as `decode_step` reads them."""
        return unstack_layers(self.config, params)

    def decode_state(self, cache: KVCache, num_slots: int) -> UnstackedCache:
        """Return the cache layer by layer, with slots for `num_slots` tokens."""
        return unstack_cache(cache, num_slots)

    def decode_step(
        self,
        params: Params,
        decode_params: UnstackedLayers,
        state: UnstackedCache,
        tokens: Int[Array, " B"],
        positions: Int[Array, " B"],
    ) -> tuple[Float[Array, "B D"], UnstackedCache]:
        """Compute the hidden states of one more token of every sequence, and the next state."""
        return decode_step(
            self.config, params, decode_params, tokens, positions=positions, cache=state
        )
