"""Next-token distribution of one model at a few positions, as objectives receive it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdistill import losses
from jaxdistill.types import VocabTables

PerPosition = Float32[Array, " R"]
"""One number per position."""

PerToken = Float32[Array, "R V"]
"""One number per position and token."""

_TABLE_PADDING = {"exact_match": -1, "nearest_token": -1, "subtokens": -1}
"""Value of tables at columns of padding; 0 in other tables."""

_Value = TypeVar("_Value")


@dataclass(eq=False, kw_only=True)
class TokenDistribution:
    """Next-token distribution of one model at a few positions, over its own vocabulary.

    The vocabulary engine builds it for one slice of a chunk and forgets it after the comparison.

    Attributes:
        logits: Logits of all tokens; -inf in columns of padding.
        labels: The token that follows each position, or several token ids of interest.
        span_prefix_log_probs: Joint log-probability of the earlier tokens of the label's span, in
            nats; None where every span is a single token.
        vocab_tables: Tables to the other model's vocabulary; None where no objective needs them.
        span_boundary_log_probs: Log-probability that white space or a special token follows the
            span, in nats; None where no objective needs it.
        output_embeddings: The LM head's matrix, with its rows of padding.
        is_scored: Positions with a weight: that of the loss mask for the student, that of the
            span for the teacher. None means all.
    """

    logits: PerToken = field(kw_only=False)
    labels: Int[Array, " R *N"] = field(kw_only=False)
    span_prefix_log_probs: PerPosition | None = None
    vocab_tables: VocabTables | None = None
    span_boundary_log_probs: PerPosition | None = None
    output_embeddings: Float[Array, "W D"] | None = None
    is_scored: Bool[Array, " R"] | None = None
    _memo: dict[Hashable, Any] = field(default_factory=dict, init=False)

    def memoise(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Memoise `compute()` under `key`."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def log_probs(self, temperature: float = 1.0) -> PerToken:
        """Log-probabilities of `logits / temperature`, in nats."""
        # Memoised, so that objectives of one temperature share one softmax and its gradient.
        return self.memoise(temperature, lambda: log_softmax(self.logits / temperature))

    def label_log_probs(self) -> PerPosition:
        """Log-probability of the label, in nats."""
        log_probs = self.log_probs()
        # A comparison with every token instead of a gather: it fuses with other uses of the
        # log-probabilities, its gradient scatters nothing, and a sharded vocabulary stays in place.
        tokens = jax.lax.broadcasted_iota(self.labels.dtype, log_probs.shape, 1)
        return jnp.sum(jnp.where(tokens == self.labels[:, None], log_probs, 0), axis=-1)

    def joint_log_probs(self) -> PerToken:
        """Log-probability of the span with each token in place of its last, in nats."""
        log_probs = self.log_probs()
        if self.span_prefix_log_probs is None:
            return log_probs
        return log_probs + self.span_prefix_log_probs[:, None]

    def span_log_probs(self) -> PerPosition:
        """Joint log-probability of all tokens of the label's span, in nats."""
        log_probs = self.label_log_probs()
        if self.span_prefix_log_probs is None:
            return log_probs
        return log_probs + self.span_prefix_log_probs

    def boundary_log_probs(self) -> PerPosition:
        """Log-probability that the next token begins with white space or is special, in nats."""
        is_boundary = self.table("is_word_boundary")[None]
        log_probs = jnp.where(is_boundary, self.log_probs(), -jnp.inf)
        return jax.nn.logsumexp(log_probs, axis=-1)

    def bucket_log_probs(self, temperature: float, *, num_subtokens: int) -> Float32[Array, "R U"]:
        """Log-probabilities of the buckets that both vocabularies share, in nats.

        A token is spread over at most `num_subtokens` subtokens.
        """
        buckets = self.table("buckets")[:, :num_subtokens]
        num_buckets = len(self._stored_table("bucket_token"))
        return losses.bucket_log_probs(
            self.log_probs(temperature), buckets, num_buckets=num_buckets
        )

    def table(self, name: str) -> Array:
        """Return the table `name` of `VocabTables`, with one row per column of the logits."""
        table = self._stored_table(name)
        num_padding = self.logits.shape[-1] - len(table)
        padding = [(0, num_padding), *[(0, 0)] * (table.ndim - 1)]
        return jnp.pad(table, padding, constant_values=_TABLE_PADDING.get(name, 0))

    def _stored_table(self, name: str) -> Array:
        table = getattr(self.vocab_tables, name, None)
        assert table is not None, "a run builds the tables in an objective's `needs`"
        return jnp.asarray(table)


def log_softmax(logits: PerToken) -> PerToken:
    """Log-probabilities of logits, in nats."""
    # `jax.nn.log_softmax` subtracts the maximum first. XLA:CPU (of JAX 0.10.2) fuses that with the
    # projection and computes the projection twice: a quarter of the time of the whole loss.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
    return logits - (largest + jnp.log(total))
