"""The nouns that rooms hand to each other, as plain pytrees.

Axis letters, the same in every annotation of the package:

| letter | axis            | letter | axis             | letter | axis        |
|--------|-----------------|--------|------------------|--------|-------------|
| B      | batch           | D      | embedding        | F      | feed-forward|
| T      | time (tokens)   | H      | query heads      | L      | layers      |
| V      | vocabulary      | K      | key/value heads  | N      | top-k       |
| R      | rows (places)   | C      | head channels    | G      | row groups  |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

_Class = TypeVar("_Class", bound=type)


def pytree(cls: _Class) -> _Class:
    """Class decorator: a dataclass whose fields are children, unless `metadata={"static": True}`.

    Rebuilding does not call `__init__`, as `jax.tree_util.register_dataclass` would: JAX and
    grain also put shardings, shapes and placeholders where the annotations say arrays.
    """
    static = tuple(f.name for f in fields(cls) if f.metadata.get("static"))
    children = tuple(f.name for f in fields(cls) if not f.metadata.get("static"))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in children)

    def flatten(node: Any) -> tuple[Any, Any]:
        return tuple(getattr(node, name) for name in children), tuple(
            getattr(node, name) for name in static
        )

    def flatten_with_keys(node: Any) -> tuple[Any, Any]:
        values, rest = flatten(node)
        return tuple(zip(keys, values, strict=True)), rest

    def unflatten(rest: Any, values: Any) -> Any:
        node = object.__new__(cls)
        for name, value in zip(children + static, (*values, *rest), strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


Params = Mapping[str, Any]
"""A model's parameters: nested dicts whose leaves are arrays (or shapes, or shardings)."""


@pytree
@dataclass(frozen=True)
class Batch:
    """Token sequences as a model reads them; the labels are shifted here, once and for all.

    `tokens[b, t]` is read at place `t`, and `labels[b, t]` is the token that follows it in the
    same segment: the hidden state at `t` predicts `labels[b, t]`, and counts `loss_mask[b, t]`
    (0 or 1) times. Several rows of the source may share one sequence (packing): they carry
    different `segment_ids` (0 is padding), and `positions` restart at 0 with each. `example_ids`
    name the source row of every place (-1 for padding), so that a bad value can be traced.
    A teacher that reads other tokens than these has them in `pairing`.
    The data room makes it of NumPy arrays; on its way into the step it becomes JAX arrays.
    """

    tokens: Int[Array | np.ndarray, "*N T"]
    labels: Int[Array | np.ndarray, "*N T"]
    loss_mask: Float[Array | np.ndarray, "*N T"]
    positions: Int[Array | np.ndarray, "*N T"]
    segment_ids: Int[Array | np.ndarray, "*N T"]
    example_ids: Int[Array | np.ndarray, "*N T"]
    alignment: "TokenAlignment | None" = None


@pytree
@dataclass(frozen=True)
class TokenAlignment:
    """How a teacher with a tokenizer of its own reads the rows of a batch, and what meets there.

    Labels of both sides that stand for the same text form a group, which has the number of the
    student's place where it meets: that which predicts its last one, or its first if groups are
    compared where they begin. A label that belongs to none has -1.
    Segments have the same numbers on both sides.

    Attributes:
        teacher: The rows in the teacher's tokens, as long as the student's or not.
        weight: How much the group counts that meets at this place of the student's; 0 where none
            does.
        student_span_ids: The group of each place of the student's.
        teacher_span_ids: The group of each place of the teacher's.
    """

    teacher: Batch
    span_weight: Float[Array | np.ndarray, "*N T"]
    student_span_ids: Int[Array | np.ndarray, "*N T"]
    teacher_span_ids: Int[Array | np.ndarray, "*N S"]


@pytree
@dataclass(frozen=True)
class VocabTables:
    """What the words of a vocabulary are.

    Attributes:
        twins: The other model's word of the same bytes for each; -1 where it has none.
        letters: The first bytes of each, as numbers; 0 behind its end.
        sizes: How many of them it has.
        is_boundary: Whether each begins with white space, or is a mark: no word reaches across it.
        pieces: The teacher's words that each is written in; -1 behind the last.
        places: Where they lie in a space that both vocabularies share; -1 behind the last.
        owners: The teacher's word that each place is named for; -1 for the first, where marks lie.
        nearest: The student's word of the least edit distance for each of the teacher's; -1 for a
            mark that has no twin.
    """

    exact_match: Int[Array | np.ndarray, " V"]
    token_bytes: UInt8[Array | np.ndarray, "V L"]
    num_bytes: Int[Array | np.ndarray, " V"]
    is_word_boundary: Bool[Array | np.ndarray, " V"]
    subtokens: Int[Array | np.ndarray, "V N"] | None = None
    buckets: Int[Array | np.ndarray, "V N"] | None = None
    bucket_token: Int[Array | np.ndarray, " K"] | None = None
    nearest_token: Int[Array | np.ndarray, " V"] | None = None


@pytree
@dataclass(frozen=True)
class LMHead:
    """The unembedding, kept apart from the body so that logits exist only inside the wall.

    `logits = soft_cap * tanh(scale * (hidden @ matrix.T + bias) / soft_cap)`, the cap only where
    there is one. Rows of `matrix` from `vocab_size` on are padding and stand for no word. Where
    objectives look words up that the other model knows too, `vocab_tables` has them.
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
    """What a model reads of each word, before it knows where the word stands.

    `vector = scale * matrix[token]`. A tied head has the same matrix.
    """

    matrix: Float[Array, "V D"]
    scale: float = field(default=1.0, metadata={"static": True})

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The vectors of tokens."""
        return (self.matrix[tokens] * self.scale).astype(self.matrix.dtype)


@pytree
@dataclass(frozen=True)
class ModelOutput:
    """What a model returns: the hidden states that its `Head` reads, after the final norm."""

    hidden: Float[Array, "B T D"]
    cache: Any = None


@pytree
@dataclass(frozen=True)
class HiddenSignal:
    """What a model says of a batch: its hidden states, and the head that reads them.

    Whoever looks at the words themselves finds them in `embedding`.
    """

    hidden: Float[Array, "B T D"]
    lm_head: LMHead
    embedding: Embedding | None = None
