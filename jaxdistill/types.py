"""Pytrees and array types that all packages share.

Axis letters, the same in every annotation of the package:

| letter | axis                 | letter | axis            | letter | axis               |
|--------|----------------------|--------|-----------------|--------|--------------------|
| B      | batch                | D      | embedding       | L      | layers             |
| T      | time (tokens)        | H      | query heads     | N, M   | top-k, subtokens   |
| S      | teacher's time       | K      | key/value heads | U      | vocabulary buckets |
| V      | vocabulary           | C      | head channels   | Y      | bytes of a token   |
| W      | teacher's vocabulary | F      | feed-forward    | G      | shards             |
| R      | positions of a chunk |        |                 |        |                    |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxdistill.pytree import pytree
from jaxdistill.taps import TapValues

Params = Mapping[str, Any]
"""Parameters of a model: nested dicts whose leaves are arrays, shapes or shardings."""


@pytree
@dataclass(frozen=True)
class Batch:
    """Batch of token sequences, each of one or more packed examples.

    Labels are shifted here and nowhere else: the hidden state at position `t` predicts
    `labels[b, t]`, the token that follows `tokens[b, t]` in its segment. The data package builds
    a batch of NumPy arrays; the train step receives JAX arrays.

    Attributes:
        tokens: Token ids.
        labels: Label of each position: the token that follows it.
        loss_mask: 1 where the label is learned, 0 elsewhere.
        positions: Index of each token in its segment, from 0.
        segment_ids: Segment of each position, from 1 in every sequence; 0 is padding.
        example_ids: Example of each position, to trace a bad value to its source; -1 is padding.
        alignment: The teacher's view and its token alignment; None where the teacher reads
            `tokens`, and in the teacher's view itself.
    """

    tokens: Int[Array | np.ndarray, "*B T"]
    labels: Int[Array | np.ndarray, "*B T"]
    loss_mask: Float[Array | np.ndarray, "*B T"]
    positions: Int[Array | np.ndarray, "*B T"]
    segment_ids: Int[Array | np.ndarray, "*B T"]
    example_ids: Int[Array | np.ndarray, "*B T"]
    alignment: "TokenAlignment | None" = None


@pytree
@dataclass(frozen=True)
class TokenAlignment:
    """Token alignment of a batch that student and teacher read with two tokenizers.

    A span is the labels of both sides that cover the same bytes. Its id is a position of the
    student's sequence: the position that predicts its last token, or its first token where
    `AlignmentRule.compare_at` says so. Both sides number their segments alike.

    Attributes:
        teacher: The teacher's view of the same examples; its sequences may differ in length.
        span_weight: Weight of the span whose id is this position; 0 where there is none.
        student_span_ids: Span of the label of each student position; -1 for none.
        teacher_span_ids: Span of the label of each teacher position; -1 for none.
    """

    teacher: Batch
    span_weight: Float[Array | np.ndarray, "*B T"]
    student_span_ids: Int[Array | np.ndarray, "*B T"]
    teacher_span_ids: Int[Array | np.ndarray, "*B S"]


@pytree
@dataclass(frozen=True)
class VocabTables:
    """Lookup tables from the tokens of one model's vocabulary to those of the other model.

    Every table has one row per token. Buckets are a space that both vocabularies share: tokens
    lie in it by the text that they begin with.

    Attributes:
        exact_match: The other model's token of the same bytes; -1 for none.
        token_bytes: First bytes of the token, as numbers; 0 after its end.
        num_bytes: Number of bytes in `token_bytes`.
        is_word_boundary: Whether the token begins with white space or is a special token, so that
            no word continues across it.
        subtokens: The teacher's tokens that the token is written in; -1 after the last.
        buckets: Bucket of each subtoken; -1 after the last. Bucket 0 holds special tokens.
        bucket_token: Teacher token that names each bucket (one row per bucket); -1 for bucket 0.
        nearest_token: Student token of the least edit distance to each teacher token; -1 for a
            special token without an exact match.
    """

    exact_match: Int[Array | np.ndarray, " V"]
    token_bytes: UInt8[Array | np.ndarray, "V Y"]
    num_bytes: Int[Array | np.ndarray, " V"]
    is_word_boundary: Bool[Array | np.ndarray, " V"]
    subtokens: Int[Array | np.ndarray, "V N"] | None = None
    buckets: Int[Array | np.ndarray, "V N"] | None = None
    bucket_token: Int[Array | np.ndarray, " U"] | None = None
    nearest_token: Int[Array | np.ndarray, " V"] | None = None


@pytree
@dataclass(frozen=True)
class LMHead:
    """LM head: the output projection from hidden states to logits, separate from the model.

    `logits = soft_cap * tanh(scale * (hidden @ matrix.T + bias) / soft_cap)`, or without a cap
    `scale * (hidden @ matrix.T + bias)`. Models return hidden states; objectives form the logits
    of a few positions at a time.

    Attributes:
        matrix: One row per token. Rows from `vocab_size` on are padding: their logits are -inf.
        bias: Bias per token; None for none.
        vocab_tables: Tables to the other model's vocabulary, where an objective needs them.
        scale: Factor of the logits.
        soft_cap: Bound of the logits' absolute value; None for no bound.
        vocab_size: Number of tokens; 0 for all rows of `matrix`.
    """

    matrix: Float[Array, "V D"]
    bias: Float[Array, " V"] | None = None
    vocab_tables: VocabTables | None = None
    scale: float = field(default=1.0, metadata={"static": True})
    soft_cap: float | None = field(default=None, metadata={"static": True})
    vocab_size: int = field(default=0, metadata={"static": True})


@pytree
@dataclass(frozen=True)
class Embedding:
    """Input embedding, `scale * matrix[token]`; a tied LM head has the same matrix."""

    matrix: Float[Array, "V D"]
    scale: float = field(default=1.0, metadata={"static": True})

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return the embedding vectors of tokens."""
        return (self.matrix[tokens] * self.scale).astype(self.matrix.dtype)


@pytree
@dataclass(frozen=True)
class ModelOutput:
    """Output of a model: hidden states after the final norm, which the LM head projects.

    Attributes:
        hidden: Hidden state of each position; those of padding mean nothing.
        cache: The key/value cache with this input added; None if the model got none.
        layer_summaries: Value of the caller's function of each layer's input and output, stacked
            over layers; None where no function was given.
        taps: What was asked for from inside of the model.
    """

    hidden: Float[Array, "B T D"]
    cache: Any = None
    layer_summaries: Any = None
    taps: TapValues = field(default_factory=TapValues)


@pytree
@dataclass(frozen=True)
class HiddenSignal:
    """Signal of a model for a batch: its hidden states, and the LM head that gives their logits.

    Attributes:
        hidden: Hidden state of each position.
        lm_head: LM head of the same model.
        embedding: Input embedding of the same model; None where no objective reads it.
        taps: Hidden states and attention from inside of the model.
    """

    hidden: Float[Array, "B T D"]
    lm_head: LMHead
    embedding: Embedding | None = None
    taps: TapValues = field(default_factory=TapValues)
