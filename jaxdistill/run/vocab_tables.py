"""What the words of two models are to each other, as far as the objectives of a run ask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxdistill import align, data
from jaxdistill.files import cache_folder
from jaxdistill.types import VocabTables

_CACHE_VERSION = "3"
"""To be raised whenever what is looked up changes, so that nothing old is found."""


def make_vocab_tables(
    student: data.Renderer,
    teacher: data.Renderer | None,
    vocab_sizes: tuple[int, int],
    vocab_needs: frozenset[str],
    chat_kinds: Sequence[tuple[bool, bool]],
) -> tuple[VocabTables | None, VocabTables | None]:
    """What the student's words are to the teacher, and the teacher's to the student.

    Args:
        student: How the student reads.
        teacher: How the teacher reads, if it does so in another way.
        sizes: How many words they have.
        vocab_needs: What objectives ask for.
        ends: Whether rows are chats on the student's side, and on the teacher's, as they occur:
            answers end in other marks there than in plain text.

    Raises:
        UserError: for a tokenizer that does not tell what its words stand for.
    """
    if not vocab_needs:
        return None, None
    if teacher is None:
        own = _identity_tables(student.text_token_bytes[: vocab_sizes[0]])
        return own, own
    pair = _VocabPair.from_templates(student, teacher, vocab_sizes, chat_kinds)
    twins = align.exact_matches(pair.student_bytes, pair.teacher_bytes, pair.special_pairs)
    mine, theirs = (
        VocabTables(of_side, *align.padded_token_bytes(side), align.word_boundaries(side))
        for of_side, side in zip(twins, (pair.student_bytes, pair.teacher_bytes), strict=True)
    )
    if "places" in vocab_needs:
        shared = pair.shared_buckets(student, teacher)
        numbers = np.arange(len(pair.teacher_bytes), dtype=np.int32)
        mine = replace(
            mine, pieces=shared.subtokens, places=shared.student_buckets, owners=shared.bucket_token
        )
        theirs = replace(
            theirs,
            pieces=numbers[:, None],
            places=shared.teacher_buckets[:, None],
            owners=shared.bucket_token,
        )
    if "nearest" in vocab_needs:
        theirs = replace(theirs, nearest=pair.nearest_tokens(twins[1]))
    return mine, theirs


def _special_pairs(
    student: data.Renderer, teacher: data.Renderer, chat_kinds: Sequence[tuple[bool, bool]]
) -> list[tuple[int, int]]:
    """The marks in which answers of these kinds end; of two for one mark the first counts."""
    found: dict[int, int] = {}
    for is_chat in chat_kinds:
        mine, theirs = (
            side.end_of_turn_id if chat else side.eos_id
            for side, chat in zip((student, teacher), is_chat, strict=True)
        )
        if mine is None or theirs is None or mine in found or theirs in found.values():
            continue
        found[mine] = theirs
    return list(found.items())


def _identity_tables(token_bytes: Sequence[bytes | None]) -> VocabTables:
    """Of one vocabulary every word is its own twin, in a place of its own."""
    numbers = np.arange(len(token_bytes), dtype=np.int32)
    return VocabTables(
        numbers,
        *align.padded_token_bytes(token_bytes),
        align.word_boundaries(token_bytes),
        subtokens=numbers[:, None],
        buckets=numbers[:, None] + 1,
        bucket_token=np.append(-1, numbers),
        nearest_token=numbers,
    )


@dataclass(frozen=True)
class _VocabPair:
    """Two vocabularies.

    Attributes:
        student: The bytes of the student's words that texts are written in.
        teacher: Of the teacher's.
        marks: Marks of both that mean the same: those in which answers end.
        folder: Where is kept what takes long to find.
    """

    student_bytes: Sequence[bytes | None]
    teacher_bytes: Sequence[bytes | None]
    special_pairs: Sequence[tuple[int, int]]
    cache_path: Path

    @classmethod
    def from_templates(
        cls,
        student: data.Renderer,
        teacher: data.Renderer,
        vocab_sizes: tuple[int, int],
        chat_kinds: Sequence[tuple[bool, bool]],
    ) -> "_VocabPair":
        marks = _special_pairs(student, teacher, chat_kinds)
        names = [
            f"{one.identity}-{n}" for one, n in zip((student, teacher), vocab_sizes, strict=True)
        ]
        names += [f"{mine}.{theirs}" for mine, theirs in marks]
        return cls(
            student.text_token_bytes[: vocab_sizes[0]],
            teacher.text_token_bytes[: vocab_sizes[1]],
            marks,
            cache_folder() / "vocabularies" / _CACHE_VERSION / "-".join(names),
        )

    def shared_buckets(self, student: data.Renderer, teacher: data.Renderer) -> align.SharedBuckets:
        """The space of both."""

        def make() -> align.Arrays:
            swapped = [(second, first) for first, second in self.special_pairs]
            mine = align.retokenize(
                self.student_bytes, self.teacher_bytes, teacher.encode_batch, self.special_pairs
            )
            theirs = align.retokenize(
                self.teacher_bytes, self.student_bytes, student.encode_batch, swapped
            )
            return align.build_shared_buckets(mine, theirs)._asdict()

        sizes = len(self.student_bytes), len(self.teacher_bytes)
        lengths = {
            "student_buckets": sizes[0],
            "teacher_buckets": sizes[1],
            "bucket_token": None,
            "subtokens": sizes[0],
        }
        return align.SharedBuckets(
            **align.load_or_compute(self.cache_path / "shared.npz", make, lengths)
        )

    def nearest_tokens(self, exact_match: np.ndarray) -> np.ndarray:
        """The student's word that is nearest to each of the teacher's."""

        def make() -> align.Arrays:
            return {
                "nearest_token": align.nearest_tokens(
                    self.teacher_bytes, self.student_bytes, exact_match
                )
            }

        lengths = {"nearest_token": len(self.teacher_bytes)}
        return align.load_or_compute(self.cache_path / "nearest.npz", make, lengths)[
            "nearest_token"
        ]
