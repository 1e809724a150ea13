"""Inputs of objectives, and what a teacher provides of them."""

from dataclasses import dataclass

VOCAB_TABLES = frozenset({"exact_match", "buckets", "nearest_token"})
"""Names of tables of `VocabTables` that objectives may need."""


@dataclass(frozen=True)
class Provides:
    """Parts of a teacher's signal: provided by it, or needed by an objective.

    Attributes:
        logits: Its next-token distributions.
        hidden: Its last hidden states.
        taps: Hidden states and attention of its inner layers.
    """

    logits: bool = False
    hidden: bool = False
    taps: bool = False

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        words = {"logits": "logits", "hidden": "hidden states", "taps": "inner layers"}
        return " and ".join(word for name, word in words.items() if getattr(self, name))

    def __sub__(self, other: "Provides") -> "Provides":
        """Return what `other` lacks."""
        return Provides(
            **{name: value and not vars(other)[name] for name, value in vars(self).items()}
        )


@dataclass(frozen=True)
class Needs:
    """Inputs of an objective besides the student's signal.

    Attributes:
        labels: The token that follows each position.
        teacher: What the teacher has to provide; nothing for an objective without a teacher.
        vocab_tables: Tables between the two vocabularies: members of `VOCAB_TABLES`, or
            "word_boundaries", which also requires `span_boundary_log_probs` of both models.
    """

    labels: bool = False
    teacher: Provides = Provides()
    vocab_tables: frozenset[str] = frozenset()


TEACHER_LOGITS = Provides(logits=True)
