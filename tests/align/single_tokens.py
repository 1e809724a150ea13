"""Texts that are one token, by what a tokenizer makes of them and not by its vocabulary."""

from jaxdistill.data import Renderer


def single_tokens(student: Renderer, teacher: Renderer) -> list[tuple[int, int]]:
    """The tokens of both for every text that is one token for both.

    The texts are those of the student's words; a tokenizer that adds something is left out there.
    """
    texts = {}
    for word in student.token_bytes:
        try:
            texts[word.decode()] = word
        except (AttributeError, UnicodeDecodeError):
            continue  # a mark, or a part of a character
    made = [templates.encode_batch(list(texts)) for templates in (student, teacher)]
    found = {}
    for word, mine, theirs in zip(texts.values(), *made, strict=True):
        if len(mine) == len(theirs) == 1 and (
            student.token_bytes[mine[0]] == teacher.token_bytes[theirs[0]] == word
        ):
            found[mine[0]] = theirs[0]
    return list(found.items())
