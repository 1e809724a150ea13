"""What a method is, and the common kind: a value for every row, from logits that the wall shows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import AlignmentRule
from jaxdistill.config import Registry, configclass
from jaxdistill.objectives.weight_schedule import WeightSchedule
from jaxdistill.types import VocabTables

OBJECTIVES = Registry("objective", package="jaxdistill.objectives")
"""The methods by their `type`: one file of this package each."""

VOCAB_NEEDS = frozenset({"words", "places", "nearest"})
"""What of two vocabularies a method may need."""

_Value = TypeVar("_Value")


class TokenDistribution:
    """What one model says in a few rows, over the real words of its vocabulary.

    Lives inside the wall, for one piece of a chunk.

    Args:
        logits: Columns of padding, if there are any, are -inf.
        labels: The word that follows.
        span_prefix_log_probs: How likely the earlier words of the label's group are, in nats; None where
            every group is one word.
        vocab_tables: What its words are to the other model, for whom asks for that.
        span_boundary_log_probs: How likely the text that the label ends is followed by white space or a mark,
            in nats; None where nobody asks.
        embeddings: What the head has of each word, and of padding.
        counts: Which rows are asked for: of the student's places, or for a teacher of pairs; None
            where all are.
    """

    def __init__(
        self,
        logits: Float32[Array, "R V"],
        labels: Int[Array, " R"],
        *,
        span_prefix_log_probs: Float32[Array, " R"] | None = None,
        vocab_tables: VocabTables | None = None,
        span_boundary_log_probs: Float32[Array, " R"] | None = None,
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
        """What `compute` finds, and found if it was asked for by this key before."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def log_probs(self, temperature: float = 1.0) -> Float32[Array, "R V"]:
        """Normalised log-probabilities of `logits / temperature`, in nats."""
        # Kept, so that objectives of one temperature share one softmax, and one gradient of it.
        return self.memoise(temperature, lambda: log_softmax(self.logits / temperature))

    def label_log_probs(self) -> Float32[Array, " R"]:
        """How likely the label is, in nats."""
        log_probs = self.log_probs()
        # Compared with every word rather than looked up: it fuses with what else reads the row,
        # its gradient scatters nothing, and a vocabulary spread over devices stays where it is.
        words = jax.lax.broadcasted_iota(self.labels.dtype, log_probs.shape, 1)
        return jnp.sum(jnp.where(words == self.labels[:, None], log_probs, 0), axis=-1)

    def joint_log_probs(self) -> Float32[Array, "R V"]:
        """How likely the group is if it ended in each word: together as likely as its beginning."""
        log_probs = self.log_probs()
        return (
            log_probs
            if self.span_prefix_log_probs is None
            else log_probs + self.span_prefix_log_probs[:, None]
        )

    def span_log_probs(self) -> Float32[Array, " R"]:
        """How likely all words of the group are, in nats."""
        found = self.label_log_probs()
        return found if self.span_prefix_log_probs is None else found + self.span_prefix_log_probs

    def boundary_log_probs(self) -> Float32[Array, " R"]:
        """How likely the next word begins with white space, or is a mark, in nats."""
        is_boundary = self._vocab_table("is_word_boundary", False)
        log_probs = jnp.where(is_boundary[None], self.log_probs(), -jnp.inf)
        return jax.nn.logsumexp(log_probs, axis=-1)

    @property
    def exact_match(self) -> Int[Array, " V"]:
        """The other model's word of the same bytes for each; -1 where it has none."""
        return self._vocab_table("exact_match", -1)

    @property
    def token_bytes(self) -> UInt8[Array, "V L"]:
        """The first bytes of each word."""
        return self._vocab_table("token_bytes", 0)

    @property
    def num_bytes(self) -> Int[Array, " V"]:
        """How many of them it has."""
        return self._vocab_table("num_bytes", 0)

    @property
    def nearest_token(self) -> Int[Array, " V"]:
        """The student's word of the least edit distance for each of the teacher's; -1 for none."""
        return self._vocab_table("nearest_token", -1)

    @property
    def subtokens(self) -> Int[Array, "V N"]:
        """The teacher's words that each word is written in; -1 behind the last."""
        return self._vocab_table("subtokens", -1)

    @property
    def buckets(self) -> Int[Array, "V N"]:
        """Where the pieces of each word lie in the space that both vocabularies share."""
        return self._vocab_table("buckets", 0)

    @property
    def bucket_token(self) -> Int[Array, " K"]:
        """The teacher's word that each place is named for; -1 for the first."""
        assert self.vocab_tables is not None, "the run looks words up for whom needs them"
        return jnp.asarray(self.vocab_tables.bucket_token)

    def bucket_log_probs(self, temperature: float, *, num_subtokens: int) -> Float32[Array, "R K"]:
        """How likely each place is of the space that both vocabularies share, in nats.

        Args:
            temperature: Divides the logits first.
            pieces: How many pieces of a word count.
        """
        places = self.buckets[:, :num_subtokens]
        return losses.bucket_log_probs(
            self.log_probs(temperature), places, num_buckets=len(self.bucket_token)
        )

    def _vocab_table(self, name: str, padding: int | bool) -> Array:
        assert self.vocab_tables is not None, "the run looks words up for whom needs them"
        column = jnp.asarray(getattr(self.vocab_tables, name))
        after = [(0, self.logits.shape[-1] - len(column)), *[(0, 0)] * (column.ndim - 1)]
        return jnp.pad(column, after, constant_values=padding)


def log_softmax(logits: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    """Normalised log-probabilities, in nats."""
    # `jax.nn.log_softmax` subtracts the maximum once and for all. XLA:CPU (of JAX 0.10.2) fuses
    # that with the projection before it, and projects twice: a quarter of the whole walk's time.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
    return logits - (largest + jnp.log(total))


PositionFunction = Callable[[TokenDistribution, TokenDistribution | None], Float32[Array, " R"]]
"""What `PositionObjective.values` is: `(student, teacher if there is one) -> values`."""


@configclass
class Objective(ABC):
    """A method: what is minimised, or a part of it.

    Args:
        weight: What its values are multiplied by in the loss: a number, or points
            `[[step, weight], ...]` with straight lines between them.
    """

    weight: WeightSchedule = 1.0

    needs: ClassVar[frozenset[str]]
    """What must be there: "labels", "teacher_logits", "teacher_hidden"; of both vocabularies
    "words", the "places" of a space that they share, or the "nearest" words."""

    @property
    def alignment_rule(self) -> AlignmentRule | None:
        """How the places of two tokenizers meet for it; None where it does not say."""
        return None

    @property
    def is_cross_tokenizer(self) -> bool:
        """Whether it compares models whose tokenizers are two."""
        return self.alignment_rule is not None

    @property
    def needs_teacher(self) -> bool:
        """Whether it is about a pair of models, and not about the student alone."""
        return "teacher_logits" in self.needs

    @property
    def vocab_needs(self) -> frozenset[str]:
        """What of the words of both vocabularies it asks for.

        Besides what `needs` has of them, "boundaries": how likely one follows on each group.
        """
        return self.needs & VOCAB_NEEDS


def objective_names(objectives: Sequence[Objective]) -> list[str]:
    """What each is called in the record; a second objective of one type is numbered."""
    types = [objective.type for objective in objectives]  # pyright: ignore
    seen = [types[:place].count(kind) for place, kind in enumerate(types)]
    return [
        f"{kind}_{before + 1}" if before else kind for kind, before in zip(types, seen, strict=True)
    ]


@configclass
class PositionObjective(Objective):
    """A method that compares student and teacher row by row."""

    @property
    def needs_span_prefix(self) -> bool:
        """Whether it asks how likely the earlier tokens of a group are."""
        return False

    @property
    def diagnostics(self) -> Mapping[str, PositionFunction]:
        """What is recorded of the same rows and not minimised, by what it is of the objective."""
        return {}

    @abstractmethod
    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """One value a row, in nats; nothing is reduced or weighted here."""


@configclass
class Divergence(PositionObjective):
    """A method that compares the two distributions over one vocabulary: 0 when they are equal.

    Args:
        temperature: Divides the logits of both sides first. A high one shows more of what the
            teacher thinks of unlikely words.
        scale_by_temperature_squared: Multiply by temperature², which keeps the gradient's size
            when the temperature is raised (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    scale_by_temperature_squared: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits"})

    @abstractmethod
    def _divergence(
        self, log_p: Float32[Array, "R V"], log_q: Float32[Array, "R V"]
    ) -> Float32[Array, " R"]:
        """The divergence of the student's `log_q` from the teacher's `log_p`."""

    def _log_p_and_log_q(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, "R V"], Float32[Array, "R V"]]:
        """What is compared: the teacher's side first."""
        return teacher.log_probs(self.temperature), student.log_probs(self.temperature)

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """The divergence at this temperature."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        scale = self.temperature**2 if self.scale_by_temperature_squared else 1.0
        return scale * self._divergence(*self._log_p_and_log_q(student, teacher))
