"""Repetition inside generated texts."""

from collections.abc import Sequence


def repeated_ngrams(texts: Sequence[Sequence[int]], *, n: int = 4) -> float:
    """1 - distinct n-grams / n-grams, the share of n-grams that repeat one of the same text.

    Both numbers are summed over texts, so that a longer text counts for more. 0 where no text has
    `n` tokens.

    Args:
        texts: The tokens of each text.
        n: Tokens in an n-gram.

    Reference: seq-rep-n of Welleck et al., "Neural Text Generation with Unlikelihood Training",
    2020, https://arxiv.org/abs/1908.04319.
    """
    distinct = total = 0
    for tokens in texts:
        ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
        distinct += len(set(ngrams))
        total += len(ngrams)
    return 1 - distinct / total if total else 0.0
