"""Are two tokenizers one? Equal sizes do not say so, nor do equal vocabularies: encode and see."""

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
"""What vocabularies write for a space."""

_TOKENS_PER_TEXT = 256


@runtime_checkable
class Tokenizer(Protocol):
    """What of a tokenizer is asked here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of `text`."""
        ...

    def get_vocab(self) -> Mapping[str, int]:
        """Every word with its id."""
        ...


def tokenizer_difference(student: Tokenizer, teacher: Tokenizer) -> str | None:
    """Where the two tokenizers part, in words; None when they encode alike.

    A teacher reads the student's token ids as they are only when this is None: two vocabularies of
    one size can differ in every id, and two equal vocabularies can split a text differently.
    """
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    for word, number in sorted(mine.items(), key=lambda one: one[1]):
        if theirs.get(word, number) != number:
            return f"token {word!r} is {number} for the student, {theirs[word]} for the teacher"
    only_mine, only_theirs = mine.keys() - theirs.keys(), theirs.keys() - mine.keys()
    if only_mine or only_theirs:
        owner = "student" if only_mine else "teacher"
        word = min(only_mine or only_theirs)
        count = len(only_mine) + len(only_theirs)
        return f"{count} tokens are known to one side only, e.g. {word!r} to the {owner}"
    for lines in (PROBE_TEXTS, *_token_text_blocks(mine)):
        if _encodes_differently("\n".join(lines), student, teacher):
            first = next(
                (one for one in lines if _encodes_differently(one, student, teacher)), lines[0]
            )
            return f"{first!r} is split differently"
    return None


def _token_text_blocks(vocabulary: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """All words, some hundred at a time: one that a tokenizer cannot put together shows."""
    words = iter(re.sub(_SPACE_MARKERS, " ", word) for word in vocabulary)
    while lines := list(islice(words, _TOKENS_PER_TEXT)):
        yield lines


def _encodes_differently(text: str, student: Tokenizer, teacher: Tokenizer) -> bool:
    mine, theirs = (one.encode(text, add_special_tokens=False) for one in (student, teacher))
    return mine != theirs
