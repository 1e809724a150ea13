"""Next-token distribution of one model at a few positions, as objectives receive it."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from jaxdistill import losses
from jaxdistill.types import VocabTables

PerPosition = Float32[Array, " R"]
"""One number per position."""

PerToken = Float32[Array, "R V"]
"""One number per position and token."""

_Value = TypeVar("_Value")


class TokenDistribution:
    """Next-token distribution of one model at a few positions, over its own vocabulary.

    The vocabulary engine builds it for one slice of a chunk and forgets it after the comparison.

    Args:
        logits: Logits of all tokens; -inf in columns of padding.
        labels: The token that follows each position.
        span_prefix_log_probs: Joint log-probability of the earlier tokens of the label's span, in
            nats; None where every span is a single token.
        vocab_tables: Tables to the other model's vocabulary; None where no objective needs them.
        span_boundary_log_probs: Log-probability that white space or a special token follows the
            span, in nats; None where no objective needs it.
        output_embeddings: The LM head's matrix, with its rows of padding.
        is_scored: Positions with a weight: that of the loss mask for the student, that of the
            span for the teacher. None means all.
    """

    def __init__(
        self,
        logits: PerToken,
        labels: Int[Array, " R"],
        *,
        span_prefix_log_probs: PerPosition | None = None,
        vocab_tables: VocabTables | None = None,
        span_boundary_log_probs: PerPosition | None = None,
        output_embeddings: Float[Array, "W D"] | None = None,
        is_scored: Bool[Array, " R"] | None = None,
    ):
        self.logits = logits
        self.labels = labels
        self.span_prefix_log_probs = span_prefix_log_probs
        self.vocab_tables = vocab_tables
        self.span_boundary_log_probs = span_boundary_log_probs
        self.output_embeddings = output_embeddings
        self.is_scored = is_scored
        self._memo: dict[Hashable, Any] = {}

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
        is_boundary = self._pad_table(self._tables.is_word_boundary, False)
        log_probs = jnp.where(is_boundary[None], self.log_probs(), -jnp.inf)
        return jax.nn.logsumexp(log_probs, axis=-1)

    @property
    def exact_match(self) -> Int[Array, " V"]:
        """The other model's token of the same bytes; -1 for none."""
        return self._pad_table(self._tables.exact_match, -1)

    @property
    def token_bytes(self) -> UInt8[Array, "V Y"]:
        """First bytes of each token; 0 after its end."""
        return self._pad_table(self._tables.token_bytes, 0)

    @property
    def num_bytes(self) -> Int[Array, " V"]:
        """Number of bytes in `token_bytes`; 0 for special tokens."""
        return self._pad_table(self._tables.num_bytes, 0)

    @property
    def nearest_token(self) -> Int[Array, " V"]:
        """Student token of the least edit distance to each teacher token; -1 for none."""
        return self._pad_table(self._tables.nearest_token, -1)

    @property
    def subtokens(self) -> Int[Array, "V N"]:
        """The teacher's tokens that each token is written in; -1 after the last."""
        return self._pad_table(self._tables.subtokens, -1)

    @property
    def buckets(self) -> Int[Array, "V N"]:
        """Bucket of each subtoken, in the space that both vocabularies share; -1 after the last."""
        return self._pad_table(self._tables.buckets, 0)

    def bucket_log_probs(self, temperature: float, *, num_subtokens: int) -> Float32[Array, "R U"]:
        """Log-probabilities of the buckets that both vocabularies share, in nats.

        Args:
            temperature: Divides the logits first.
            num_subtokens: Number of subtokens over which a token is spread.
        """
        buckets = self.buckets[:, :num_subtokens]
        assert self._tables.bucket_token is not None, "buckets come with their tokens"
        num_buckets = len(self._tables.bucket_token)
        return losses.bucket_log_probs(
            self.log_probs(temperature), buckets, num_buckets=num_buckets
        )

    @property
    def _tables(self) -> VocabTables:
        assert self.vocab_tables is not None, "a run builds the tables in an objective's `needs`"
        return self.vocab_tables

    def _pad_table(self, table: Array | np.ndarray | None, value: int | bool) -> Array:
        """Return a table with one row per column of the logits."""
        assert table is not None, "a run builds the tables in an objective's `needs`"
        num_padding = self.logits.shape[-1] - len(table)
        padding = [(0, num_padding), *[(0, 0)] * (table.ndim - 1)]
        return jnp.pad(jnp.asarray(table), padding, constant_values=value)


def log_softmax(logits: PerToken) -> PerToken:
    """Log-probabilities of logits, in nats."""
    # `jax.nn.log_softmax` subtracts the maximum first. XLA:CPU (of JAX 0.10.2) fuses that with the
    # projection and computes the projection twice: a quarter of the time of the whole loss.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
    return logits - (largest + jnp.log(total))
