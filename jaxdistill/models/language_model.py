"""Interface of language models: their sizes, their passes, and their LM heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdistill.models.execution import Execution
from jaxdistill.models.layer_importance import ImportanceSums
from jaxdistill.sharding import named_shardings
from jaxdistill.taps import NO_OFFSETS, NO_TAPS, Taps, Widths
from jaxdistill.types import (
    Batch,
    Embedding,
    HiddenSignal,
    LMHead,
    ModelOutput,
    Params,
    VocabTables,
)

Tokens = Int[Array | np.ndarray, "B T"]
"""One whole number per token."""


class LanguageModel(ABC):
    """The architecture of a language model, without parameters.

    It is hashable, so that it can be a static argument of `jax.jit`. Parameters are nested dicts of
    arrays. Padding is segment 0; hidden states there mean nothing.
    """

    execution: Execution
    """How it is computed."""

    @abstractmethod
    def with_execution(self, execution: Execution) -> "LanguageModel":
        """Return the model, computed in this way."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of rows of the token embedding, padding included."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """Maximum length of a sequence."""

    @property
    @abstractmethod
    def widths(self) -> Widths:
        """Sizes of what can be tapped."""

    @abstractmethod
    def forward_flops(self, length: int) -> float:
        """Count the floating-point operations of a sequence, without the LM head."""

    @abstractmethod
    def abstract_params(self, dtype: Any = "float32") -> Params:
        """Return shape and dtype of every parameter."""

    @abstractmethod
    def axes(self) -> Params:
        """Return the logical axis names of every parameter, as tuples."""

    @abstractmethod
    def init_params(self, key: Array, dtype: Any = "float32") -> Params:
        """Return fresh parameters."""

    @abstractmethod
    def with_layers(self, indices: Sequence[int]) -> "LanguageModel":
        """Return the architecture of some layers, counted from 0."""

    @abstractmethod
    def select_layers(self, params: Params, indices: Sequence[int]) -> Params:
        """Return the parameters of some layers, each of which computes as before."""

    @abstractmethod
    def importance_sums(self, params: Params, batch: Batch) -> ImportanceSums:
        """Sum the importance of each layer over the scored positions of a batch."""

    @abstractmethod
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
        """Compute hidden states; each token attends to the tokens before it in its segment.

        `offsets` are added to the tapped hidden states of these layers, and so to all that follows.
        """

    @abstractmethod
    def lm_head(self, params: Params, *, vocab_size: int | None = None) -> LMHead:
        """Return the LM head; rows of its matrix from `vocab_size` on are padding."""

    @abstractmethod
    def embedding(self, params: Params) -> Embedding:
        """Return the token embedding."""

    @abstractmethod
    def prefill(
        self, params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Read prompts, padded at their ends.

        Returns:
            Hidden states, and the cache of keys and values for `decode_state`.
        """

    @abstractmethod
    def decode_params(self, params: Params) -> Any:
        """Return the parameters as `decode_step` reads them; not to be called under `jax.jit`."""

    @abstractmethod
    def decode_state(self, cache: Any, num_slots: int) -> Any:
        """Return the state of decoding after `prefill`; not to be called under `jax.jit`.

        It has slots for `num_slots` tokens, those of the prompts included.
        """

    @abstractmethod
    def decode_step(
        self,
        params: Params,
        decode_params: Any,
        state: Any,
        tokens: Int[Array, " B"],
        positions: Int[Array, " B"],
    ) -> tuple[Float[Array, "B D"], Any]:
        """Compute the hidden states of one more token of every sequence, and the next state."""

    def forward_batch(
        self,
        params: Params,
        batch: Batch,
        taps: Taps = NO_TAPS,
        offsets: Mapping[int, Array] = NO_OFFSETS,
    ) -> ModelOutput:
        """Call `forward` on the tokens of a `Batch`."""
        return self.forward(
            params,
            jnp.asarray(batch.tokens),
            positions=jnp.asarray(batch.positions),
            segment_ids=jnp.asarray(batch.segment_ids),
            taps=taps,
            offsets=offsets,
        )

    def signal(
        self,
        params: Params,
        batch: Batch,
        *,
        vocab_size: int | None = None,
        vocab_tables: VocabTables | None = None,
        taps: Taps = NO_TAPS,
        offsets: Mapping[int, Array] = NO_OFFSETS,
    ) -> HiddenSignal:
        """Compute the signal of the model for one view of a batch.

        Rows of the LM head from `vocab_size` on are padding; `vocab_tables` lead to the tokens of
        the other model.
        """
        output = self.forward_batch(params, batch, taps, offsets)
        head = self._gathered_head(self.lm_head(params, vocab_size=vocab_size))
        return HiddenSignal(
            hidden=output.hidden,
            lm_head=replace(head, vocab_tables=vocab_tables),
            embedding=self.embedding(params),
            taps=output.taps,
        )

    def _gathered_head(self, head: LMHead) -> LMHead:
        """Gather the columns of the LM head once; a loss would gather them for each chunk."""
        mesh = self.execution.mesh
        if mesh is None or mesh.size == 1:
            return head
        sharding = named_shardings(mesh, ("vocab", None), head.matrix)
        return replace(head, matrix=jax.lax.with_sharding_constraint(head.matrix, sharding))
