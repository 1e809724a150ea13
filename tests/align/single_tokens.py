"""Texts that are a single token, found by encoding them and not from the vocabulary."""

from jaxdistill.data import Renderer


def single_tokens(student: Renderer, teacher: Renderer) -> list[tuple[int, int]]:
    """Return the ids of both tokens for every text that is a single token for both tokenizers.

    The texts are those of the student's tokens; texts that a tokenizer adds to are left out.
    """
    texts = {}
    for token in student.token_bytes:
        try:
            texts[token.decode()] = token
        except (AttributeError, UnicodeDecodeError):
            continue  # a special token, or a part of a character
    encoded = [renderer.encode_batch(list(texts)) for renderer in (student, teacher)]
    pairs = {}
    for token, student_ids, teacher_ids in zip(texts.values(), *encoded, strict=True):
        if len(student_ids) == len(teacher_ids) == 1 and (
            student.token_bytes[student_ids[0]] == teacher.token_bytes[teacher_ids[0]] == token
        ):
            pairs[student_ids[0]] = teacher_ids[0]
    return list(pairs.items())
