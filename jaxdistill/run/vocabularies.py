"""What the words of two models are to each other, as far as the objectives of a run ask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxdistill import align, data
from jaxdistill.files import cache_folder
from jaxdistill.types import Lexicon

_FORMAT = "2"
"""To be raised whenever what is looked up changes, so that nothing old is found."""


def lexicons(
    student: data.Templates,
    teacher: data.Templates | None,
    sizes: tuple[int, int],
    lookups: frozenset[str],
    ends: Sequence[tuple[bool, bool]],
) -> tuple[Lexicon | None, Lexicon | None]:
    """What the student's words are to the teacher, and the teacher's to the student.

    Args:
        student: How the student reads.
        teacher: How the teacher reads, if it does so in another way.
        sizes: How many words they have.
        lookups: What objectives ask for.
        ends: Whether rows are chats on the student's side, and on the teacher's, as they occur:
            answers end in other marks there than in plain text.

    Raises:
        UserError: for a tokenizer that does not tell what its words stand for.
    """
    if not lookups:
        return None, None
    if teacher is None:
        own = _of_one(student.words[: sizes[0]])
        return own, own
    pair = _Pair.of(student, teacher, sizes, ends)
    twins = align.twins(pair.student, pair.teacher, pair.marks)
    mine, theirs = (
        Lexicon(of_side, *align.letters(side), align.boundaries(side))
        for of_side, side in zip(twins, (pair.student, pair.teacher), strict=True)
    )
    if "places" in lookups:
        shared = pair.shared_space(student, teacher)
        numbers = np.arange(len(pair.teacher), dtype=np.int32)
        mine = replace(mine, pieces=shared.pieces, places=shared.student, owners=shared.owners)
        theirs = replace(
            theirs,
            pieces=numbers[:, None],
            places=shared.teacher[:, None],
            owners=shared.owners,
        )
    if "nearest" in lookups:
        theirs = replace(theirs, nearest=pair.nearest(twins[1]))
    return mine, theirs


def _marks(
    student: data.Templates, teacher: data.Templates, ends: Sequence[tuple[bool, bool]]
) -> list[tuple[int, int]]:
    """The marks in which answers of these kinds end; of two for one mark the first counts."""
    found: dict[int, int] = {}
    for is_chat in ends:
        mine, theirs = (
            side.end_of_turn if chat else side.eos
            for side, chat in zip((student, teacher), is_chat, strict=True)
        )
        if mine is None or theirs is None or mine in found or theirs in found.values():
            continue
        found[mine] = theirs
    return list(found.items())


def _of_one(words: Sequence[bytes | None]) -> Lexicon:
    """Of one vocabulary every word is its own twin, in a place of its own."""
    numbers = np.arange(len(words), dtype=np.int32)
    return Lexicon(
        numbers,
        *align.letters(words),
        align.boundaries(words),
        pieces=numbers[:, None],
        places=numbers[:, None] + 1,
        owners=np.append(-1, numbers),
        nearest=numbers,
    )


@dataclass(frozen=True)
class _Pair:
    """Two vocabularies.

    Attributes:
        student: The bytes of the student's words that texts are written in.
        teacher: Of the teacher's.
        marks: Marks of both that mean the same: those in which answers end.
        folder: Where is kept what takes long to find.
    """

    student: Sequence[bytes | None]
    teacher: Sequence[bytes | None]
    marks: Sequence[tuple[int, int]]
    folder: Path

    @classmethod
    def of(
        cls,
        student: data.Templates,
        teacher: data.Templates,
        sizes: tuple[int, int],
        ends: Sequence[tuple[bool, bool]],
    ) -> "_Pair":
        marks = _marks(student, teacher, ends)
        names = [f"{one.identity}-{n}" for one, n in zip((student, teacher), sizes, strict=True)]
        names += [f"{mine}.{theirs}" for mine, theirs in marks]
        return cls(
            student.words[: sizes[0]],
            teacher.words[: sizes[1]],
            marks,
            cache_folder() / "vocabularies" / _FORMAT / "-".join(names),
        )

    def shared_space(self, student: data.Templates, teacher: data.Templates) -> align.Projection:
        """The space of both."""

        def make() -> align.Arrays:
            swapped = [(second, first) for first, second in self.marks]
            mine = align.pieces(self.student, self.teacher, teacher.encode, self.marks)
            theirs = align.pieces(self.teacher, self.student, student.encode, swapped)
            return align.projection(mine, theirs)._asdict()

        sizes = len(self.student), len(self.teacher)
        lengths = {"student": sizes[0], "teacher": sizes[1], "owners": None, "pieces": sizes[0]}
        return align.Projection(**align.saved(self.folder / "shared.npz", make, lengths))

    def nearest(self, twins: np.ndarray) -> np.ndarray:
        """The student's word that is nearest to each of the teacher's."""

        def make() -> align.Arrays:
            return {"nearest": align.nearest_words(self.teacher, self.student, twins)}

        lengths = {"nearest": len(self.teacher)}
        return align.saved(self.folder / "nearest.npz", make, lengths)["nearest"]
