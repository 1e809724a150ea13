"""Differences between two texts, word by word."""

import difflib
import re
from collections.abc import Iterator

_WORD_OR_SPACE = re.compile(r"\s+|\S+")


def diff_words(text: str, reference: str) -> Iterator[tuple[str, bool]]:
    """Yield `text` in pieces, each with True if it differs from `reference`.

    Neighbouring words that differ are a single piece, with the spaces between them but not around
    them; a difference in spacing alone does not count.
    """
    parts = _WORD_OR_SPACE.findall(text)
    word_indices = [index for index, part in enumerate(parts) if not part.isspace()]
    words = [parts[index] for index in word_indices]
    matcher = difflib.SequenceMatcher(a=words, b=reference.split(), autojunk=False)
    done = 0
    for kind, start, end, _, _ in matcher.get_opcodes():
        if kind == "equal" or start == end:
            continue
        first, last = word_indices[start], word_indices[end - 1] + 1
        if first > done:
            yield "".join(parts[done:first]), False
        yield "".join(parts[first:last]), True
        done = last
    if done < len(parts):
        yield "".join(parts[done:]), False
