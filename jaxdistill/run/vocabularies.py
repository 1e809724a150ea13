"""What the words of two models are to each other, as far as the objectives of a run ask."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxdistill import align, data
from jaxdistill.files import cache_folder
from jaxdistill.types import Words

_Vocabulary = Sequence[bytes | None]


def words(
    student: data.Templates,
    teacher: data.Templates | None,
    sizes: tuple[int, int],
    lookups: frozenset[str],
) -> tuple[Words | None, Words | None]:
    """What the student's words are to the teacher, and the teacher's to the student.

    Args:
        student: How the student reads.
        teacher: How the teacher reads, if it does so in another way.
        sizes: How many words they have.
        lookups: What objectives ask for.

    Raises:
        UserError: for a tokenizer that does not tell what its words stand for.
    """
    if not lookups:
        return None, None
    mine = student.token_bytes[: sizes[0]]
    if teacher is None:
        return _of_one(mine), _of_one(mine)
    theirs = teacher.token_bytes[: sizes[1]]
    ends = student.end_of_turn, teacher.end_of_turn
    marks = [] if ends[0] is None or ends[1] is None else [(ends[0], ends[1])]
    found = [
        Words(twins, *align.letters(side), align.boundaries(side))
        for twins, side in zip(align.twins(mine, theirs, marks), (mine, theirs), strict=True)
    ]
    if "places" not in lookups:
        return found[0], found[1]
    shared = _shared_space((student, mine), (teacher, theirs), marks)
    numbers = np.arange(len(theirs), dtype=np.int32)[:, None]
    return (
        replace(found[0], pieces=shared.pieces, places=shared.student, owners=shared.owners),
        replace(found[1], pieces=numbers, places=shared.teacher[:, None], owners=shared.owners),
    )


def _of_one(words: _Vocabulary) -> Words:
    """Of one vocabulary every word is its own twin, in a place of its own."""
    numbers = np.arange(len(words), dtype=np.int32)
    return Words(
        numbers,
        *align.letters(words),
        align.boundaries(words),
        pieces=numbers[:, None],
        places=numbers[:, None] + 1,
        owners=np.append(-1, numbers),
    )


def _shared_space(
    student: tuple[data.Templates, _Vocabulary],
    teacher: tuple[data.Templates, _Vocabulary],
    marks: Sequence[tuple[int, int]],
) -> align.Projection:
    """The space of both vocabularies, made once for a pair of tokenizers."""
    (mine, my_words), (theirs, their_words) = student, teacher

    def make() -> align.Projection:
        swapped = [(second, first) for first, second in marks]
        return align.projection(
            align.pieces(my_words, their_words, theirs.encode, marks),
            align.pieces(their_words, my_words, mine.encode, swapped),
        )

    name = f"{mine.identity}-{theirs.identity}-{len(my_words)}-{len(their_words)}.npz"
    return align.saved(cache_folder() / "projections" / name, make)
