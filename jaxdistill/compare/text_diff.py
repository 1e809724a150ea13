"""Where two answers differ, word by word."""

import difflib
import re
from collections.abc import Iterator

_WORD_OR_SPACE = re.compile(r"\s+|\S+")


def diff_words(text: str, reference: str) -> Iterator[tuple[str, bool]]:
    """`answer` in pieces, each with whether it is said differently in `other`.

    Neighbouring words that differ are one piece, with the spaces between them; the spaces around
    it are not marked, and spacing alone is no difference.
    """
    pieces = _WORD_OR_SPACE.findall(text)
    places = [place for place, piece in enumerate(pieces) if not piece.isspace()]
    mine, theirs = [pieces[place] for place in places], reference.split()
    matcher = difflib.SequenceMatcher(a=mine, b=theirs, autojunk=False)
    done = 0
    for kind, start, end, _, _ in matcher.get_opcodes():
        if kind == "equal" or start == end:
            continue
        first, last = places[start], places[end - 1] + 1
        if first > done:
            yield "".join(pieces[done:first]), False
        yield "".join(pieces[first:last]), True
        done = last
    if done < len(pieces):
        yield "".join(pieces[done:]), False
