"""Comparison of two tokenizers by their vocabularies and by what they encode.

Equal vocabulary sizes do not make two tokenizers equal, nor do equal vocabularies.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " leading space, trailing space ",
    "1234567890 3.14159 1,000,000 2026-11-22",
    "naïve café, Ærøskøbing, Владивосток, 東京タワー, 한국어, עברית",
    "👩‍🔬🙂 🇩🇰 ﬁ ½ \u200bzero-width",
    "def f(x):\n\treturn x**2  # four    spaces\n\n\n",
    "I'll they're CAN'T snake_case camelCase HTTPServer",
)

_SPACE_MARKERS = "[\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}\N{LOWER ONE EIGHTH BLOCK}]"
"""Characters that vocabularies write for a space."""

_TOKENS_PER_TEXT = 256


@runtime_checkable
class Tokenizer(Protocol):
    """The methods of a Hugging Face tokenizer that a comparison calls."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ...

    def get_vocab(self) -> Mapping[str, int]:
        """Return the id of every token."""
        ...


def tokenizer_difference(student: Tokenizer, teacher: Tokenizer) -> str | None:
    """Describe the first difference between two tokenizers; None when they encode alike.

    Only then can a teacher read the student's token ids. Two vocabularies of one size can differ in
    every id, and with equal vocabularies two tokenizers can split a text differently.
    """
    student_vocab, teacher_vocab = student.get_vocab(), teacher.get_vocab()
    for token, token_id in sorted(student_vocab.items(), key=lambda item: item[1]):
        if (other_id := teacher_vocab.get(token, token_id)) != token_id:
            return f"token {token!r} is {token_id} for the student, {other_id} for the teacher"
    student_only = student_vocab.keys() - teacher_vocab.keys()
    teacher_only = teacher_vocab.keys() - student_vocab.keys()
    if student_only or teacher_only:
        owner = "student" if student_only else "teacher"
        token = min(student_only or teacher_only)
        count = len(student_only) + len(teacher_only)
        return f"{count} tokens are known to one side only, e.g. {token!r} to the {owner}"
    for texts in (PROBE_TEXTS, *_token_text_blocks(student_vocab)):
        if _encodes_differently("\n".join(texts), student, teacher):
            different = (text for text in texts if _encodes_differently(text, student, teacher))
            return f"{next(different, texts[0])!r} is split differently"
    return None


def _token_text_blocks(vocabulary: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Yield the text of every token, in blocks: tokens that need other merges split differently."""
    texts = iter(re.sub(_SPACE_MARKERS, " ", token) for token in vocabulary)
    while block := list(islice(texts, _TOKENS_PER_TEXT)):
        yield block


def _encodes_differently(text: str, student: Tokenizer, teacher: Tokenizer) -> bool:
    student_ids, teacher_ids = (
        tokenizer.encode(text, add_special_tokens=False) for tokenizer in (student, teacher)
    )
    return student_ids != teacher_ids
